"""`set-read-only`: nobody writes to a blob any more."""

from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result


@store_command("set-read-only")
@blob_argument
def command(options: StoreOptions, *, blob_id: int) -> None:
    """Make a blob read-only for good; it can be cloned then."""
    with options.open(read_only=False) as store, store.open_blob(blob_id) as blob:
        blob.set_read_only()
        blob.sync_md()
    print_result({"id": blob_id, "read_only": True}, "", as_json=options.as_json)
