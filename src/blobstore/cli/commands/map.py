"""`map`: a picture of which blob owns which cluster."""

import os
import shutil
import sys
from typing import Final

import click

from blobstore import ExistsError
from blobstore.cli.files import open_to_write, refuse_directory, write_all
from blobstore.cli.options import PathType, StoreOptions, store_command
from blobstore.cli.output import print_json
from blobstore.cli.picture.ownership_map import OwnershipMap, map_fields, map_store

_LOOKED_AT: Final = 512


@store_command("map")
@click.option("--svg", type=PathType(), metavar="FILE", help="Write SVG; - is standard output.")
@click.option(
    "--html",
    type=PathType(),
    metavar="FILE",
    help="Write a page to zoom and point into; - is standard output.",
)
def command(options: StoreOptions, *, svg: str | None, html: str | None) -> None:
    """Draw which blob owns which cluster, and the tree of snapshots; nothing changes.

    A blob's line ends with its content from start to end. Each letter is that of the
    blob that holds the part: the blob itself or a parent; ~ is an external snapshot,
    . is a hole. The page needs no network, and no other file. An existing FILE is
    replaced only if it is such a picture.
    """
    if (svg, html, options.as_json and "-").count("-") > 1:
        raise click.UsageError("only one of --svg -, --html - and --json can be standard output")
    _refuse_other_content(svg, b"<svg", "SVG")
    _refuse_other_content(html, b"<!doctype html>", "page")
    with options.open(read_only=True) as store:
        ownership = map_store(store)
    if svg is not None:
        _write_svg(ownership, svg)
    if html is not None:
        _write_html(ownership, html)
    if options.as_json:
        print_json(map_fields(ownership))
    elif svg is None and html is None:
        _print(ownership)


def _refuse_other_content(file: str | None, mark: bytes, kind: str) -> None:
    """Refuse to replace a file that holds anything but a picture: a store is one word away.

    Raises:
        ExistsError: It does.
    """
    if file in (None, "-") or not os.path.lexists(file):
        return
    refuse_directory(file)
    if not os.path.isfile(file):
        raise ExistsError(f"{file}: is not a regular file")
    with open(file, "rb") as found:
        start = found.read(_LOOKED_AT)
    if start and mark not in start:
        raise ExistsError(f"{file}: exists and holds no {kind}; it is kept")


def _write_svg(ownership: OwnershipMap, file: str) -> None:
    from blobstore.cli.picture.svg import render_svg

    _write(render_svg(ownership), file)


def _write_html(ownership: OwnershipMap, file: str) -> None:
    from blobstore.cli.picture.html_page import render_page

    _write(render_page(ownership), file)


def _write(picture: str, file: str) -> None:
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
