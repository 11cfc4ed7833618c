"""`zero`: make a part of a blob read as zeroes."""

from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    length_option,
    offset_option,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("zero")
@blob_argument
@offset_option
@length_option
def command(options: StoreOptions, *, blob_id: int, offset: int, length: int) -> None:
    """Make a part of a blob read as zeroes; it has its clusters afterwards."""
    with options.open(read_only=False) as store, store.open_blob(blob_id) as blob:
        blob.write_zeroes(offset, length)
        blob.flush()
    fields = {"id": blob_id, "offset": offset, "length": length}
    print_result(fields, "", as_json=options.as_json)
