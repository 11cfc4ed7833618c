"""`import`: copy a file into a blob."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from blobstore import Blob, NotFoundError
from blobstore.backup.any_store import check_new_name
from blobstore.cli import store_kinds
from blobstore.cli.asking import confirm
from blobstore.cli.blob_lookup import open_blob, warn_of_name
from blobstore.cli.content import holds_data
from blobstore.cli.copying import check_fits, data_size, replace_content
from blobstore.cli.files import open_to_read, size_of
from blobstore.cli.images.formats import FORMATS, refuse_image
from blobstore.cli.importing import BlobImport, describe_source
from blobstore.cli.interruption import advising, leaving, making_blobs
from blobstore.cli.options import (
    PathType,
    StoreOptions,
    blob,
    complete_blob,
    store_command,
    thin_option,
    yes_option,
)
from blobstore.cli.output import print_result, printable
from blobstore.cli.progress import progress


@store_command("import", changes=True, reads_content=True)
@click.argument("file", type=PathType())
@click.argument("which", metavar="[BLOB]", type=blob, required=False, shell_complete=complete_blob)
@click.option("--name", help="The new blob's attribute `name`, or the new volume's name.")
@thin_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    help="What FILE is (vpc is VHD); required if FILE looks like one of these. Default: raw.",
)
@click.option(
    "--chain",
    is_flag=True,
    help="FILE is qcow2; the images that it needs become snapshots below the blob.",
)
@click.option(
    "--backing-dir",
    "directories",
    type=PathType(),
    multiple=True,
    metavar="DIRECTORY",
    help="A further directory whose images --chain may open; always: that of FILE and below.",
)
@click.option("--prefix", default="", help="What the names of the snapshots of --chain begin with.")
@click.option("--verify", is_flag=True, help="Read all of it again, and compare hashes.")
@click.option(
    "--resume", is_flag=True, help="Continue an interrupted import of FILE, if there is one."
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
    chain: bool,
    directories: tuple[str, ...],
    prefix: str,
    verify: bool,
    resume: bool,
    yes: bool,
) -> None:
    """Copy FILE into a new blob, or into BLOB, and print the id.

    Zeroes and holes take no clusters of a thin blob. If BLOB has content, the command
    asks, and replaces it; beyond the end of FILE, BLOB reads as zeroes. An import that
    is interrupted keeps what is already durable. --resume continues such an import, if
    FILE has not changed. With --chain each snapshot gets the name of its file without
    extension, after --prefix, and the blob the name of FILE or of --name.
    """
    if file == "-":
        raise click.UsageError("FILE is a file with holes; `write` reads standard input")
    if which is not None and (name is not None or thin or chain or resume):
        raise click.UsageError("--name, --thin, --chain and --resume are for a new blob")
    if (directories or prefix) and not chain:
        raise click.UsageError("--backing-dir and --prefix are for --chain")
    if chain:
        if file_format not in (None, "qcow2"):
            raise click.UsageError("--chain takes a qcow2 image")
        _import_chain(
            options, file, directories, name=name, prefix=prefix, verifying=verify, resume=resume
        )
        return
    extra: dict[str, object] = {}
    with _opened(file, file_format) as source:
        dropped = _dropped_fields([(file, file_format or "raw")], as_json=options.as_json)
        if which is None:
            with making_blobs(options) as store:
                done, extra = _into_new(
                    store,
                    source,
                    file,
                    file_format or "raw",
                    thin=thin,
                    name=name,
                    resume=resume,
                    verifying=verify,
                )
                if not options.as_json:
                    warn_of_name(store, name)
        else:
            with options.open(read_only=False) as store, _open_target(store, which) as opened:
                done = _into_existing(opened, source, file, place=options.address, yes=yes)
                extra = _verified(opened, source, file) if verify else {}
    fields = {**store_kinds.made_fields(done), **extra, **dropped}
    print_result(fields, store_kinds.made_text(done), as_json=options.as_json)


def _open_target(store: store_kinds.AnyStore, which: str) -> Blob:
    with advising(NotFoundError, "--name NAME imports into a new blob"):
        return open_blob(store, which)


def _import_chain(
    options: StoreOptions,
    file: str,
    directories: tuple[str, ...],
    *,
    name: str | None,
    prefix: str,
    verifying: bool,
    resume: bool,
) -> None:
    from blobstore.cli.images.backing_chain import find_chain
    from blobstore.cli.images.import_chain import import_chain

    levels = find_chain(file, directories)
    files = [(level.path, level.image_format) for level in levels]
    dropped = _dropped_fields(files, as_json=options.as_json)
    with making_blobs(options) as store:
        done, snapshots = import_chain(
            store, levels, name=name, prefix=prefix, verifying=verifying, resume=resume
        )
    fields = store_kinds.made_fields(done)
    fields["snapshots"] = [store_kinds.made_fields(snapshot) for snapshot in snapshots]
    print_result({**fields, **dropped}, store_kinds.made_text(done), as_json=options.as_json)


def _dropped_fields(files: Sequence[tuple[str, str]], *, as_json: bool) -> dict[str, object]:
    """Warn of snapshots inside the images (path, format), and return what JSON says of them.

    They are not imported: the disk is, as it is now.
    """
    from blobstore.cli.images.qcow2_header import snapshot_count

    counts = {path: snapshot_count(path) for path, each in files if each == "qcow2"}
    for path, count in counts.items():
        if count and not as_json:
            snapshots = (
                "1 internal snapshot is" if count == 1 else f"{count} internal snapshots are"
            )
            what = f"{path}: {snapshots} not imported"
            how = "`qemu-img convert -l NAME` writes one to a file"
            click.echo(printable(f"warning: {what}; {how}"), err=True)
    total = sum(counts.values())
    return {"dropped_snapshots": total} if total else {}


@contextmanager
def _opened(file: str, file_format: str | None) -> Iterator[int]:
    """Open what is to be imported as a raw image."""
    if file_format in (None, "raw"):
        with open_to_read(file) as source:
            if file_format is None:
                refuse_image(source, path=file)
            yield source
        return
    from blobstore.cli.images.qemu_img import as_raw, refuse_backing

    refuse_backing(file, file_format)
    with as_raw(file, file_format) as raw, open_to_read(raw) as source:
        yield source


def _into_new(
    store: store_kinds.AnyStore,
    source: int,
    path: str,
    image_format: str,
    *,
    thin: bool,
    name: str | None,
    resume: bool,
    verifying: bool,
) -> tuple[Blob, dict[str, object]]:
    """Import into a new blob, which gets its name when it is complete; return the hash, too."""
    check_new_name(store, name)
    length = size_of(source)
    state = describe_source([(path, image_format)])
    found = BlobImport.go_on(store, state, thin=thin) if resume else None
    this = found or BlobImport.begin(store, state, length, thin=thin)
    with this.filling():
        this.fill(source, length, path=path, label="import")
        extra = _verified(this.blob, source, path) if verifying else {}
        this.finish(name)
    return this.blob, extra


def _verified(blob: Blob, source: int, path: str) -> dict[str, object]:
    """Read the file and the blob again; return the hash of both."""
    from blobstore.cli.images.verifying import verify

    return {"sha256": verify(blob, source, [(0, size_of(source))], path=path)}


def _into_existing(blob: Blob, source: int, path: str, *, place: str, yes: bool) -> Blob:
    length = size_of(source)
    check_fits(blob, length, path=path)
    if holds_data(blob):
        confirm(f"{place}: blob {blob.id:#x}: replace what it holds", yes=yes)
    left = f"blob {blob.id:#x} is a mixture of {path} and its old content: import again"
    with leaving(left), progress("import", data_size(source, length)) as advance:
        replace_content(blob, source, length, path=path, advance=advance)
        blob.flush()
    return blob
