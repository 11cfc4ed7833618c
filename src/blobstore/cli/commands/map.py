"""`map`: a picture of which blob owns which cluster."""

import os
import shutil
import sys
from typing import Final

import click

from blobstore import ExistsError
from blobstore.cli.files import open_to_write, write_all
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import print_json
from blobstore.cli.picture.ownership_map import OwnershipMap, map_fields, map_store

_LOOKED_AT: Final = 512


@store_command("map")
@click.option(
    "--svg", "file", type=click.Path(), metavar="FILE", help="Write SVG; - is standard output."
)
def command(options: StoreOptions, *, file: str | None) -> None:
    """Draw which blob owns which cluster, and the tree of snapshots; nothing changes.

    Each blob's line ends with what the blob shows from its start to its end, as
    letters of the blobs that hold it: its own, a parent's, ~ an external
    snapshot, . a hole.
    A FILE that exists is only replaced if it is SVG, too.
    """
    if file == "-" and options.as_json:
        raise click.UsageError("--svg - and --json both want standard output")
    if file not in (None, "-"):
        _refuse_other_content(file)
    with options.open(read_only=True) as store:
        ownership = map_store(store)
    if file is not None:
        _write_svg(ownership, file)
    if options.as_json:
        print_json(map_fields(ownership))
    elif file is None:
        _print(ownership)


def _refuse_other_content(file: str) -> None:
    """Refuse to replace a file that holds anything but a picture: a store is one word away.

    Raises:
        ExistsError: It does.
    """
    if not os.path.lexists(file):
        return
    if not os.path.isfile(file):
        raise ExistsError(f"{file}: is not a regular file")
    with open(file, "rb") as found:
        start = found.read(_LOOKED_AT)
    if start and b"<svg" not in start:
        raise ExistsError(f"{file}: exists and holds no SVG; it is kept")


def _write_svg(ownership: OwnershipMap, file: str) -> None:
    from blobstore.cli.picture.svg import render_svg

    picture = render_svg(ownership)
    if file == "-":
        click.echo(picture, nl=False)
        return
    with open_to_write(file, overwrite=os.path.lexists(file)) as descriptor:
        write_all(descriptor, picture.encode(), 0)


def _print(ownership: OwnershipMap) -> None:
    from blobstore.cli.picture.text import print_coloured, render_plain

    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        from rich.console import Console

        print_coloured(ownership, Console(highlight=False))
    else:
        click.echo(render_plain(ownership, width=shutil.get_terminal_size().columns))
