"""`decouple`: copy what a blob reads from its parent."""

from blobstore.cli.blob_lookup import open_to_change
from blobstore.cli.interruption import leaving
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import parent_fields


@store_command("decouple", changes=True, reads_content=True)
@blob_argument
def command(options: StoreOptions, *, which: str) -> None:
    """Copy what a blob reads from its parent, and make its grandparent its parent."""
    with options.open(read_only=False) as store, open_to_change(store, which) as blob:
        with leaving(
            f"blob {blob.id:#x} still reads the same data: run `decouple` again to continue"
        ):
            blob.decouple()
        info = blob.info
    print_result(parent_fields(info), "", as_json=options.as_json)
