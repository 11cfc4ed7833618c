"""`super`: the blob at which an application begins to read its store."""

from typing import Final

import click

from blobstore.cli import store_kinds
from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result

_REFUSED: Final = "the super blob of a volume store holds its name and uuid: it stays"


@click.group("super")
def command() -> None:
    """Get, set or clear the blob at which an application begins to read its store."""


@store_command("get")
def get_super(options: StoreOptions) -> None:
    """Print the id of the super blob; nothing changes."""
    with options.open(read_only=True) as store:
        blob_id = store.super_blob
    print_result({"id": blob_id}, f"{blob_id:#x}", as_json=options.as_json)


@store_command("set", changes=True)
@blob_argument
def set_super(options: StoreOptions, *, which: str) -> None:
    """Set the super blob to a blob of the store; durable when done."""
    with options.open(read_only=False) as store:
        blob_id = find_blob(store, which)
        store_kinds.blob_store(store, _REFUSED).set_super_blob(blob_id)
    print_result({"id": blob_id}, "", as_json=options.as_json)


@store_command("clear", changes=True)
def clear_super(options: StoreOptions) -> None:
    """Clear the super blob; durable when done."""
    with options.open(read_only=False) as store:
        store_kinds.blob_store(store, _REFUSED).set_super_blob(None)
    print_result({"id": None}, "", as_json=options.as_json)


for _subcommand in (get_super, set_super, clear_super):
    command.add_command(_subcommand)
