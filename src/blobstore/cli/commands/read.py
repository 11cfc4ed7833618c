"""`read`: read from a blob."""

import sys

import click

from blobstore import InvalidArgumentError
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    offset_option,
    size,
    store_command,
)
from blobstore.cli.output import print_json
from blobstore.cli.rescuing import (
    Content,
    Hints,
    UnreadableError,
    fail_unreadable,
    layout_options,
    print_ranges,
    rescue_fields,
    zero_fill_option,
)


def _wanted(content: Content, offset: int, length: int | None) -> int:
    """Return how much to read.

    Raises:
        InvalidArgumentError: To the end, from beyond it.
    """
    if length is not None:
        return length
    if offset > content.size:
        raise InvalidArgumentError(
            f"blob {content.blob_id:#x}: offset {offset}: outside of {content.size} bytes"
        )
    return content.size - offset


@store_command("read", reads_content=True)
@blob_argument
@offset_option
@click.option("--length", type=size, help="Default: to the end of the blob.")
@zero_fill_option
@layout_options
def command(
    options: StoreOptions,
    *,
    which: str,
    offset: int,
    length: int | None,
    zero_fill: bool,
    hints: Hints,
) -> int:
    """Write a part of a blob to standard output; nothing of the store changes.

    A damaged blob is read as far as possible. If a part is known to be unreadable,
    the command writes nothing, unless --zero-fill is given.
    """
    content = Content(options, which, zero_fill=zero_fill, hints=hints)
    try:
        with content:
            content.check(offset, length)
            wanted = _wanted(content, offset, length)
            parts = content.parts(offset, wanted, sparse=False)
            if options.as_json:
                data = b"".join(bytes(part) for _at, part in parts)
                fields = {"offset": offset, "length": wanted, "data": data.hex()}
                print_json({"id": content.blob_id, **fields, **rescue_fields(content)})
                return 0
            for _at, part in parts:
                sys.stdout.buffer.write(part)
    except UnreadableError as error:
        return fail_unreadable(error, as_json=options.as_json)
    print_ranges(content.unreadable, as_json=False)
    return 0
