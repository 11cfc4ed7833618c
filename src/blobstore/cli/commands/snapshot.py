"""`snapshot`: keep what a blob holds now."""

from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    name_argument,
    name_xattrs,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("snapshot")
@blob_argument
@name_argument
def command(options: StoreOptions, *, blob_id: int, name: str | None) -> None:
    """Make a read-only snapshot of a blob, which goes on as its clone, and print its id.

    No data are copied. NAME is kept as the snapshot's attribute `name`.
    """
    with (
        options.open(read_only=False) as store,
        store.open_blob(blob_id) as blob,
        blob.snapshot(name_xattrs(name)) as snapshot,
    ):
        made = snapshot.id
    print_result({"id": made}, f"{made:#x}", as_json=options.as_json)
