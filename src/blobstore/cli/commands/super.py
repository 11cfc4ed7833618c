"""`super`: the blob at which an application begins to read its store."""

import click

from blobstore import NotFoundError
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result


@click.group("super")
def command() -> None:
    """Get, set or clear the blob at which an application begins to read its store."""


@store_command("get")
def get_super(options: StoreOptions) -> None:
    """Print the id of the super blob; nothing changes."""
    with options.open(read_only=True) as store:
        blob_id = store.super_blob
    print_result({"id": blob_id}, f"{blob_id:#x}", as_json=options.as_json)


@store_command("set")
@blob_argument
def set_super(options: StoreOptions, *, blob_id: int) -> None:
    """Set the super blob, which must be there; durable when done."""
    with options.open(read_only=False) as store:
        if blob_id not in store.blob_ids():
            raise NotFoundError(f"blob {blob_id:#x}: not found")
        store.set_super_blob(blob_id)
    print_result({"id": blob_id}, "", as_json=options.as_json)


@store_command("clear")
def clear_super(options: StoreOptions) -> None:
    """Have no super blob any more; durable when done."""
    with options.open(read_only=False) as store:
        store.set_super_blob(None)
    print_result({"id": None}, "", as_json=options.as_json)


for _subcommand in (get_super, set_super, clear_super):
    command.add_command(_subcommand)
