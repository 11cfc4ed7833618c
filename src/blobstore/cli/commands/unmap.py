"""`unmap`: give a part of a blob back."""

from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    length_option,
    offset_option,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("unmap", changes=True, reads_content=True)
@blob_argument
@offset_option
@length_option
def command(options: StoreOptions, *, which: str, offset: int, length: int) -> None:
    """Deallocate a range of a blob: it reads as zeroes, and a thin blob frees whole clusters.

    A clone keeps its clusters, filled with zeroes. Where a clone has no cluster, it
    still reads its parent.
    """
    with options.open(read_only=False) as store, open_blob(store, which) as blob:
        blob.unmap(offset, length)
        blob.flush()
    fields = {"id": blob.id, "offset": offset, "length": length}
    print_result(fields, "", as_json=options.as_json)
