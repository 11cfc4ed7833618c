"""`read`: get bytes out of a blob."""

import sys

import click

from blobstore.tools.cli.content import read_parts
from blobstore.tools.cli.options import (
    StoreOptions,
    blob_argument,
    offset_option,
    size,
    store_command,
)
from blobstore.tools.cli.output import print_json


@store_command("read")
@blob_argument
@offset_option
@click.option("--length", type=size, help="Default: to the end of the blob.")
def command(options: StoreOptions, *, blob_id: int, offset: int, length: int | None) -> None:
    """Write a part of a blob to standard output; nothing of the store changes."""
    with options.open(read_only=True) as store, store.open_blob(blob_id) as blob:
        wanted = max(0, blob.size - offset) if length is None else length
        parts = read_parts(blob, offset=offset, length=wanted)
        if options.as_json:
            data = b"".join(parts)
            print_json({"id": blob_id, "offset": offset, "length": wanted, "data": data.hex()})
            return
        for part in parts:
            sys.stdout.buffer.write(part)
