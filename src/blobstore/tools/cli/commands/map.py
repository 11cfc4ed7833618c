"""`map`: a picture of who owns which clusters."""

import os
import shutil
import sys

import click

from blobstore.tools.cli.options import StoreOptions, store_command
from blobstore.tools.cli.output import print_json
from blobstore.tools.cli.picture.survey import Survey, survey_fields, survey_store


@store_command("map")
@click.option(
    "--svg", "file", type=click.Path(), metavar="FILE", help="Write SVG; - is standard output."
)
def command(options: StoreOptions, *, file: str | None) -> None:
    """Draw who owns which clusters, and the tree of snapshots and clones; nothing changes.

    Behind each blob stands what it shows from its start to its end, as letters
    of those that hold it: its own, a parent's, ~ an external snapshot, . a hole.
    """
    with options.open(read_only=True) as store:
        survey = survey_store(store)
    if file is not None:
        _write_svg(survey, file)
    if options.as_json:
        print_json(survey_fields(survey))
    elif file is None:
        _print(survey)


def _write_svg(survey: Survey, file: str) -> None:
    from blobstore.tools.cli.picture.svg import render_svg

    with click.open_file(file, "w", encoding="utf-8") as out:
        out.write(render_svg(survey))


def _print(survey: Survey) -> None:
    from blobstore.tools.cli.picture.text import print_coloured, render_plain

    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        from rich.console import Console

        print_coloured(survey, Console(highlight=False))
    else:
        click.echo(render_plain(survey, width=shutil.get_terminal_size().columns))
