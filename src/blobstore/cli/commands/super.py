"""`super`: the blob at which an application begins to read its store."""

from typing import Final

import click

from blobstore import BlobId, Blobstore
from blobstore.cli import store_kinds
from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result
from blobstore.errors import InvalidArgumentError
from blobstore.volumes.identity import VOLUME_STORE_TYPE, decode_store_identity

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
@click.option(
    "--volumes",
    "is_volumes",
    is_flag=True,
    help="Make it a volume store again, with this blob's name and uuid.",
)
def set_super(options: StoreOptions, *, which: str, is_volumes: bool) -> None:
    """Set the super blob to a blob of the store; durable when done.

    With --volumes the store also gets the type of a volume store. That is for one
    that has lost its super block: `check` says which blob it can be.
    """
    with options.open(read_only=False) as store:
        blob_id = find_blob(store, which)
        blobs = store_kinds.blob_store(store, _REFUSED)
        if is_volumes:
            _check_identity(blobs, blob_id)
            blobs.set_type(VOLUME_STORE_TYPE)
        blobs.set_super_blob(blob_id)
    print_result({"id": blob_id}, "", as_json=options.as_json)


def _check_identity(store: Blobstore, blob_id: BlobId) -> None:
    """Refuse a blob that cannot be the super blob of a volume store.

    Raises:
        CorruptError: It has no name or uuid.
        InvalidArgumentError: It has clusters.
    """
    with store.open_blob(blob_id) as blob:
        decode_store_identity(blob.xattrs, place=f"blob {blob_id:#x}")
        if blob.size:
            raise InvalidArgumentError(
                f"blob {blob_id:#x}: {blob.size} bytes, expected a blob without data"
            )


@store_command("clear", changes=True)
def clear_super(options: StoreOptions) -> None:
    """Clear the super blob; durable when done."""
    with options.open(read_only=False) as store:
        store_kinds.blob_store(store, _REFUSED).set_super_blob(None)
    print_result({"id": None}, "", as_json=options.as_json)


for _subcommand in (get_super, set_super, clear_super):
    command.add_command(_subcommand)
