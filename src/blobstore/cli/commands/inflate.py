"""`inflate`: give a blob every cluster of its own."""

from blobstore.cli.blob_lookup import open_to_change
from blobstore.cli.interruption import leaving
from blobstore.cli.options import StoreOptions, blob_argument, store_command
from blobstore.cli.output import print_result
from blobstore.cli.rendering import parent_fields


@store_command("inflate", changes=True, reads_content=True)
@blob_argument
def command(options: StoreOptions, *, which: str) -> None:
    """Give a blob every cluster of its own: after that it is thick, and no clone."""
    with options.open(read_only=False) as store, open_to_change(store, which) as blob:
        with leaving(
            f"blob {blob.id:#x} still reads the same data: run `inflate` again to continue"
        ):
            blob.inflate()
        info = blob.info
    print_result(parent_fields(info), "", as_json=options.as_json)
