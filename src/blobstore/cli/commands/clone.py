"""`clone`: a writable blob that begins as a snapshot."""

from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    name_argument,
    name_xattrs,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("clone")
@blob_argument
@name_argument
def command(options: StoreOptions, *, blob_id: int, name: str | None) -> None:
    """Make a thin, writable clone of a snapshot or read-only blob, and print its id.

    No data are copied. NAME is kept as the clone's attribute `name`.
    """
    with (
        options.open(read_only=False) as store,
        store.open_blob(blob_id) as blob,
        blob.clone(name_xattrs(name)) as clone,
    ):
        made = clone.id
    print_result({"id": made}, f"{made:#x}", as_json=options.as_json)
