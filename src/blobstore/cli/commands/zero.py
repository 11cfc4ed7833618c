"""`zero`: make a range of a blob read as zeroes."""

from blobstore.cli.blob_lookup import open_to_change
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    length_option,
    offset_option,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("zero", changes=True, reads_content=True)
@blob_argument
@offset_option
@length_option
def command(options: StoreOptions, *, which: str, offset: int, length: int) -> None:
    """Make a range of a blob read as zeroes; its clusters are allocated after that."""
    with options.open(read_only=False) as store, open_to_change(store, which) as blob:
        blob.write_zeroes(offset, length)
        blob.flush()
    fields = {"id": blob.id, "offset": offset, "length": length}
    print_result(fields, "", as_json=options.as_json)
