"""`snapshot`: keep what a blob holds now."""

from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.interruption import making_blobs
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    name_argument,
    store_command,
)
from blobstore.cli.output import print_result
from blobstore.cli.values import name_xattrs


@store_command("snapshot", changes=True)
@blob_argument
@name_argument
def command(options: StoreOptions, *, which: str, name: str | None) -> None:
    """Make a read-only snapshot of a blob, which goes on as its clone, and print its id.

    No data are copied. NAME is kept as the snapshot's attribute `name`.
    """
    with (
        making_blobs(options) as store,
        open_blob(store, which) as blob,
        blob.snapshot(xattrs=name_xattrs(name)) as snapshot,
    ):
        made = snapshot.id
    print_result({"id": made}, f"{made:#x}", as_json=options.as_json)
