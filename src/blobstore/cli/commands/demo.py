"""`demo`: a writing process is killed, and nothing acknowledged is lost."""

import tempfile
from pathlib import Path

import click

from blobstore import InvalidArgumentError
from blobstore.cli.demo.tour import Step, Tour
from blobstore.cli.options import PathType, json_option
from blobstore.cli.output import print_json, printable
from blobstore.cli.rendering import (
    blob_fields,
    list_row,
    render_extents,
    render_list,
    render_store,
    store_fields,
)


@click.command("demo")
@click.argument("file", type=PathType(path_type=Path), required=False)
@json_option
def command(file: Path | None, as_json: bool) -> int:
    """Import FILE into a new store twice, the second time killed half-way; recover; verify.

    Without FILE a tar of Python's own standard library is imported. Everything
    happens in a temporary directory. The exit status is 0 only if no acknowledged
    byte is lost.
    """
    if file is not None and not file.is_file():
        raise InvalidArgumentError(f"{file}: no file")
    with tempfile.TemporaryDirectory(prefix="blobstore-demo-") as directory:
        tour = Tour(Path(directory)) if as_json else Tour(Path(directory), tell=_print_step)
        tour.run(file)
    return report(tour, as_json=as_json)


def report(tour: Tour, *, as_json: bool) -> int:
    """Print what the tour found; return the exit status."""
    if as_json:
        print_json(_fields(tour))
    else:
        click.echo(_render(tour))
    return 1 if tour.problems else 0


def _print_step(step: Step) -> None:
    click.echo(f"{step.seconds * 1000:7.1f} ms  {step.name}: {step.detail}")


def _fields(tour: Tour) -> dict[str, object]:
    return {
        "ok": not tour.problems,
        "problems": tour.problems,
        "steps": [
            {"name": step.name, "seconds": step.seconds, "detail": step.detail}
            for step in tour.steps
        ],
        "store": None if tour.store is None else store_fields(tour.store),
        "blobs": [blob_fields(info, long=True) for info in tour.blobs],
    }


def _render(tour: Tour) -> str:
    store = "" if tour.store is None else render_store(tour.store)
    extents = [f"{info.blob_id:#x}  extents {render_extents(info.extents)}" for info in tour.blobs]
    verdict = tour.problems or ["all that was acknowledged is there"]
    rows = [list_row(info) for info in tour.blobs]
    return "\n".join(["", store, "", render_list(rows), *extents, "", *map(printable, verdict)])
