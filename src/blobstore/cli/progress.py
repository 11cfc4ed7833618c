"""A progress bar on standard error, if that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from blobstore.cli.output import printable

Advance: TypeAlias = Callable[[int], None]
"""Takes how many bytes were done since the last call."""


@contextmanager
def progress(label: str, total: int | None, *, is_bytes: bool = True) -> Iterator[Advance]:
    """Show a bar for as long as the body runs; nothing unless standard error is a terminal.

    It shows what is done, of bytes also their rate, and the time that is left
    where the total is known.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bytes_done = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    columns = (
        TextColumn("{task.description}", markup=False),  # names can have brackets
        BarColumn(),
        *(bytes_done if is_bytes else (TaskProgressColumn(),)),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(printable(label), total=total)
        yield lambda count: bar.advance(task, count)


def _ignore(_count: int) -> None:
    return None
