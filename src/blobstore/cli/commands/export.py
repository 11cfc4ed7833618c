"""`export`: copy a blob into a file."""

import os

import click

from blobstore import ExistsError, InvalidArgumentError
from blobstore.cli.asking import confirm
from blobstore.cli.copying import copy_out
from blobstore.cli.files import open_to_write, refuse_link
from blobstore.cli.interruption import finish, leaving
from blobstore.cli.options import (
    StoreOptions,
    blob_argument,
    size,
    store_command,
    yes_option,
)
from blobstore.cli.output import print_result
from blobstore.cli.progress import progress
from blobstore.cli.qcow2 import to_convert
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


@store_command("export", reads_content=True)
@blob_argument
@click.argument("file", type=click.Path())
@click.option("--length", type=size, help="Only the first bytes; default: the whole blob.")
@click.option("--format", "file_format", type=click.Choice(["raw", "qcow2"]), default="raw")
@zero_fill_option
@layout_options
@yes_option
def command(
    options: StoreOptions,
    *,
    which: str,
    file: str,
    length: int | None,
    file_format: str,
    zero_fill: bool,
    yes: bool,
    hints: Hints,
) -> int:
    """Copy a blob into FILE, where zeroes become holes; nothing of the store changes.

    An existing FILE is only overwritten after asking, or with --yes. A symbolic
    link is refused. FILE gets its name when it is complete: a failed export leaves
    an old FILE as it was. A damaged blob is read as far as possible; an unreadable
    part is an error, unless --zero-fill is given.
    """
    if file == "-":
        raise click.UsageError("FILE is a file with holes; `read` writes to standard output")
    refuse_link(file)
    content = Content(options, which, zero_fill=zero_fill, hints=hints)
    try:
        with leaving() as left, content:
            wanted = _checked_length(content, length)
            content.check(0, length)
            _export_to(content, file, wanted, file_format, yes=yes)
            left.what = f"{file} is complete"
            finish(options)
    except UnreadableError as error:
        return fail_unreadable(error, as_json=options.as_json)
    print_ranges(content.unreadable, as_json=options.as_json)
    fields = {"id": content.blob_id, "length": wanted, **rescue_fields(content)}
    print_result(fields, "", as_json=options.as_json)
    return 0


def _checked_length(content: Content, length: int | None) -> int:
    if length is not None and length > content.size:
        raise InvalidArgumentError(
            f"blob {content.blob_id:#x}: {content.size} bytes, {length} asked for"
        )
    return content.size if length is None else length


def _export_to(content: Content, file: str, length: int, file_format: str, *, yes: bool) -> None:
    if overwrite := os.path.lexists(file):
        refusal = ExistsError(f"{file}: exists; --yes overwrites it")
        confirm(f"{file}: overwrite it", yes=yes, refusal=refusal)
    if file_format == "qcow2":
        with to_convert(file, overwrite=overwrite) as raw:
            _export(content, raw, length, overwrite=False)
    else:
        _export(content, file, length, overwrite=overwrite)


def _export(content: Content, path: str, length: int, *, overwrite: bool) -> None:
    with open_to_write(path, overwrite=overwrite) as file, progress("export", length) as advance:
        copy_out(content, file, length, advance=advance)
