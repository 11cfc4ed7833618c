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
from blobstore.errors import naming


def _wanted(content: Content, offset: int, length: int | None) -> int:
    """Return how much to read.

    Raises:
        InvalidArgumentError: More than the blob has, which is known of a sound one; or to the end,
            from beyond it.
    """
    if length is not None and content.warning is not None:
        return length
    size = content.size
    if offset + (length or 0) > size:
        what = f"offset {offset}" if length is None else f"{length} bytes at {offset}"
        raise InvalidArgumentError(f"{what}: outside of {size} bytes").at(blob=content.blob_id)
    return size - offset if length is None else length


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
            with naming(store=options.address):
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
