"""`write`: write to a blob."""

import click

from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.content import Readable, write_stream
from blobstore.cli.options import (
    InputFile,
    StoreOptions,
    blob_argument,
    offset_option,
    store_command,
)
from blobstore.cli.output import print_result
from blobstore.errors import naming


@store_command("write", changes=True, reads_content=True)
@blob_argument
@click.argument("file", type=InputFile(), default="-")
@offset_option
def command(options: StoreOptions, *, which: str, file: Readable, offset: int) -> None:
    """Write FILE, or standard input, into a blob at --offset; durable when done.

    A FILE that does not fit is refused before anything is written.
    """
    with (
        naming(store=options.address),
        options.open(read_only=False) as store,
        open_blob(store, which) as blob,
    ):
        length = write_stream(blob, file, offset=offset)
    fields = {"id": blob.id, "offset": offset, "length": length}
    print_result(fields, "", as_json=options.as_json)
