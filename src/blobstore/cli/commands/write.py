"""`write`: write to a blob."""

import click

from blobstore.cli.blob_lookup import open_to_change
from blobstore.cli.content import opened_input, write_stream
from blobstore.cli.options import (
    InputType,
    StoreOptions,
    blob_argument,
    offset_option,
    store_command,
)
from blobstore.cli.output import print_result
from blobstore.errors import naming


@store_command("write", changes=True, reads_content=True)
@blob_argument
@click.argument("file", type=InputType(), default="-")
@offset_option
def command(options: StoreOptions, *, which: str, file: str, offset: int) -> None:
    """Write FILE, or standard input, into a blob at --offset; durable when done.

    A FILE that does not fit is refused before anything is written.
    """
    with (
        opened_input(file) as stream,
        naming(store=options.address),
        options.open(read_only=False) as store,
        open_to_change(store, which) as blob,
    ):
        length = write_stream(blob, stream, offset=offset)
    fields = {"id": blob.id, "offset": offset, "length": length}
    print_result(fields, "", as_json=options.as_json)
