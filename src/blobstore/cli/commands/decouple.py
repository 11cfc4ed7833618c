"""`decouple`: copy what a blob reads from its parent."""

from blobstore.cli.describe import parent_fields
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result


@store_command("decouple")
@blob_argument
def command(options: StoreOptions, *, blob_id: int) -> None:
    """Copy what a blob reads from its parent; its grandparent, if any, is its parent then."""
    with options.open(read_only=False) as store, store.open_blob(blob_id) as blob:
        blob.decouple()
        info = blob.info()
    print_result(parent_fields(info), "", as_json=options.as_json)
