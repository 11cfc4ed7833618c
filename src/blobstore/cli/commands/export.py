"""`export`: copy a blob into a file."""

import os
from contextlib import ExitStack

import click

from blobstore import ExistsError, InvalidArgumentError
from blobstore.cli.asking import confirm
from blobstore.cli.blob_lookup import find_blob
from blobstore.cli.copying import copy_out, copy_out_qcow2
from blobstore.cli.files import open_to_write, refuse_block_device, refuse_directory, refuse_link
from blobstore.cli.images.formats import FORMATS, format_of_extension
from blobstore.cli.interruption import finish, leaving
from blobstore.cli.options import (
    PathType,
    StoreOptions,
    blob_argument,
    size,
    store_command,
    yes_option,
)
from blobstore.cli.output import print_result, printable, unicode_text
from blobstore.cli.progress import progress
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
from blobstore.cli.salvaged import salvaged_fields, warn


@store_command("export", reads_content=True)
@blob_argument
@click.argument("file", type=PathType())
@click.option("--length", type=size, help="Only the first bytes; default: the whole blob.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    help="What FILE is to be, whatever its name says. Default: raw; with --chain and --tree qcow2.",
)
@click.option(
    "--chain",
    is_flag=True,
    help="Write qcow2, and beside it an image for each snapshot that the blob reads.",
)
@click.option(
    "--tree", is_flag=True, help="As --chain, and an image for each clone of the blob, and theirs."
)
@click.option("--verify", is_flag=True, help="Read all of it again, and compare hashes.")
@zero_fill_option
@layout_options
@yes_option
def command(
    options: StoreOptions,
    *,
    which: str,
    file: str,
    length: int | None,
    file_format: str | None,
    chain: bool,
    tree: bool,
    verify: bool,
    zero_fill: bool,
    yes: bool,
    hints: Hints,
) -> int:
    """Copy a blob into FILE, where zeroes become holes; nothing of the store changes.

    An existing FILE is only overwritten after asking, or with --yes. A symbolic
    link is refused. FILE gets its name when it is complete: a failed export leaves
    an old FILE as it was. A damaged blob is read as far as possible; an unreadable
    part is an error, unless --zero-fill is given. With --chain the images of the
    snapshots have the names of the snapshots, with .qcow2.
    """
    if file == "-":
        raise click.UsageError("FILE is a file with holes; `read` writes to standard output")
    if chain or tree:
        if length is not None or zero_fill or hints:
            raise click.UsageError("--chain and --tree write whole blobs of a store that opens")
        if file_format not in (None, "qcow2"):
            raise click.UsageError("--chain and --tree write qcow2 images")
        refuse_link(file)
        refuse_block_device(file)
        _export_chain(options, which, file, with_clones=tree, verifying=verify, yes=yes)
        return 0
    refuse_link(file)
    if file_format is None:
        _warn_of_extension(file, as_json=options.as_json)
        file_format = "raw"
    if file_format != "raw":
        refuse_block_device(file)
    content = Content(options, which, zero_fill=zero_fill, hints=hints)
    try:
        with leaving() as left, content:
            wanted = _checked_length(content, length)
            content.check(0, length)
            _export_to(content, file, wanted, file_format, yes=yes)
            left.what = f"{file} is complete"
            sha256 = _verified(content, file, wanted, file_format) if verify else {}
            finish(options)
    except UnreadableError as error:
        return fail_unreadable(error, as_json=options.as_json)
    print_ranges(content.unreadable, as_json=options.as_json)
    fields = {"id": content.blob_id, "length": wanted, **sha256, **rescue_fields(content)}
    print_result(fields, "", as_json=options.as_json)
    return 0


def _warn_of_extension(file: str, *, as_json: bool) -> None:
    """Say on standard error that the extension of FILE names a format that FILE will not have."""
    named = format_of_extension(file)
    if named is not None and not as_json:
        warning = f"warning: {file}: a raw file; --format {named} writes a {named} image"
        click.echo(printable(warning), err=True)


def _checked_length(content: Content, length: int | None) -> int:
    if length is not None and length > content.size:
        raise InvalidArgumentError(
            f"blob {content.blob_id:#x}: {content.size} bytes, {length} asked for"
        )
    return content.size if length is None else length


def _export_to(content: Content, file: str, length: int, file_format: str, *, yes: bool) -> None:
    overwrite = _may_overwrite(file, yes=yes)
    if file_format in ("raw", "qcow2"):
        copy = copy_out if file_format == "raw" else copy_out_qcow2
        with (
            open_to_write(file, overwrite=overwrite) as target,
            progress("export", content.amount(length)) as advance,
        ):
            copy(content, target, length, advance=advance)
        return
    from blobstore.cli.images.qemu_img import to_convert

    with (
        to_convert(file, file_format, overwrite=overwrite) as raw,
        open_to_write(raw, overwrite=False) as target,
        progress("export", content.amount(length)) as advance,
    ):
        copy_out(content, target, length, advance=advance)


def _may_overwrite(file: str, *, yes: bool) -> bool:
    """Say whether FILE is there, and is to be overwritten."""
    if not os.path.lexists(file):
        return False
    refuse_directory(file)
    refusal = ExistsError(f"{file}: exists; --yes overwrites it")
    confirm(f"{file}: overwrite it", yes=yes, refusal=refusal)
    return True


def _verified(content: Content, file: str, length: int, file_format: str) -> dict[str, object]:
    """Read the blob and the image again; return the hash of both."""
    from blobstore.cli.images.verifying import verify_file

    return {"sha256": verify_file(content, file, file_format, length)}


def _export_chain(
    options: StoreOptions, which: str, file: str, *, with_clones: bool, verifying: bool, yes: bool
) -> None:
    from blobstore.cli.images.export_chain import export_chain, open_chain, open_clones, plan_files

    with ExitStack() as stack, leaving() as left:
        store = stack.enter_context(options.open(read_only=True))
        blobs = open_chain(store, find_blob(store, which), stack)
        wanted = blobs[-1]
        salvaged = wanted.nearest_salvaged
        if not options.as_json:
            warn(wanted.id, salvaged)
        if with_clones:
            blobs += open_clones(store, wanted, stack)
        files = plan_files(blobs, wanted, file)
        present = [each.path for each in files if _may_overwrite(each.path, yes=yes)]
        export_chain(files, overwrite=bool(present), verifying=verifying, left=left)
        finish(options)
    fields = {
        "id": wanted.id,
        "files": [unicode_text(each.path) for each in files],
        **salvaged_fields(salvaged),
    }
    print_result(fields, "", as_json=options.as_json)
