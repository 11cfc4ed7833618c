"""`set-read-only`: a blob that cannot be written to any more."""

from blobstore.cli.blob_lookup import open_to_change
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result


@store_command("set-read-only", changes=True)
@blob_argument
def command(options: StoreOptions, *, which: str) -> None:
    """Make a blob read-only for good; after that it can be cloned."""
    with options.open(read_only=False) as store, open_to_change(store, which) as blob:
        blob.set_read_only()
        blob.sync_md()
    print_result({"id": blob.id, "read_only": True}, "", as_json=options.as_json)
