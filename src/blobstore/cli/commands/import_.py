"""`import`: copy a file into a blob."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from blobstore import Blob, Blobstore
from blobstore.cli import identity
from blobstore.cli.asking import confirm
from blobstore.cli.blob_lookup import open_blob
from blobstore.cli.content import holds_data
from blobstore.cli.copying import check_fits, fill_new, replace_content
from blobstore.cli.files import open_to_read, size_of
from blobstore.cli.image_formats import refuse_image
from blobstore.cli.interruption import leaving, making_blobs
from blobstore.cli.options import (
    StoreOptions,
    blob,
    complete_blob,
    store_command,
    thin_option,
    yes_option,
)
from blobstore.cli.output import print_result
from blobstore.cli.progress import progress
from blobstore.cli.qcow2 import as_raw


@store_command("import", changes=True, reads_content=True)
@click.argument("file", type=click.Path())
@click.argument("which", metavar="[BLOB]", type=blob, required=False, shell_complete=complete_blob)
@click.option("--name", help="The new blob's attribute `name`, or the new volume's name.")
@thin_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["raw", "qcow2"]),
    help="What FILE is; needed if it looks like a qcow2, vmdk, vdi or vhdx image. Default: raw.",
)
@yes_option
def command(
    options: StoreOptions,
    *,
    file: str,
    which: str | None,
    name: str | None,
    thin: bool,
    file_format: str | None,
    yes: bool,
) -> None:
    """Copy FILE into a new blob, or into BLOB, and print the id.

    Zeroes and holes take no clusters of a thin blob. An import that fails leaves no
    new blob. The content of BLOB is replaced, after asking; beyond the end of FILE,
    BLOB reads as zeroes.
    """
    if which is not None and (name is not None or thin):
        raise click.UsageError("--name and --thin are for a new blob")
    with _opened(file, file_format) as source:
        if which is None:
            with making_blobs(options) as store:
                done = _into_new(store, source, file, thin=thin, name=name)
        else:
            with options.open(read_only=False) as store, open_blob(store, which) as opened:
                done = _into_existing(opened, source, file, yes=yes)
    print_result(identity.made_fields(done), identity.made_text(done), as_json=options.as_json)


@contextmanager
def _opened(file: str, file_format: str | None) -> Iterator[int]:
    """Open what is to be imported as a raw image."""
    if file_format == "qcow2":
        with as_raw(file) as raw, open_to_read(raw) as source:
            yield source
    else:
        with open_to_read(file) as source:
            if file_format is None:
                refuse_image(source, path=file)
            yield source


def _into_new(
    store: identity.AnyStore, source: int, path: str, *, thin: bool, name: str | None
) -> Blob:
    """Import into a new blob; it has no name before it has its content, but a volume has one."""
    length = size_of(source)
    first_name = None if isinstance(store, Blobstore) else name
    with (
        identity.create_blob(store, first_name, length, thin=thin) as blob,
        progress("import", length) as advance,
    ):
        fill_new(blob, source, length, path=path, advance=advance)
        if first_name is None and name is not None:
            identity.rename(blob, name)
    return blob


def _into_existing(blob: Blob, source: int, path: str, *, yes: bool) -> Blob:
    length = size_of(source)
    check_fits(blob, length, path=path)
    if holds_data(blob):
        confirm(f"blob {blob.id:#x}: replace what it holds", yes=yes)
    left = f"blob {blob.id:#x} holds a part of it and of what it held: import again"
    with leaving(left), progress("import", length) as advance:
        replace_content(blob, source, length, path=path, advance=advance)
        blob.flush()
    return blob
