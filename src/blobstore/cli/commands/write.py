"""`write`: put bytes into a blob."""

import click

from blobstore.cli.content import Readable, write_stream
from blobstore.cli.options import (
    InputFile,
    StoreOptions,
    blob_argument,
    offset_option,
    store_command,
)
from blobstore.cli.output import print_result


@store_command("write")
@blob_argument
@click.argument("file", type=InputFile(), default="-")
@offset_option
def command(options: StoreOptions, *, blob_id: int, file: Readable, offset: int) -> None:
    """Write FILE, or standard input, into a blob at --offset; durable when done."""
    with options.open(read_only=False) as store, store.open_blob(blob_id) as blob:
        length = write_stream(blob, file, offset=offset)
        blob.flush()
    fields = {"id": blob_id, "offset": offset, "length": length}
    print_result(fields, "", as_json=options.as_json)
