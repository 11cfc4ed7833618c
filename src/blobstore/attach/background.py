"""A process that goes on when the command that started it has ended."""

import os
import sys
from collections.abc import Callable
from typing import Final, NoReturn

Report = Callable[[bytes], None]

_OPEN_FILES_MAX: Final = 65536
_STANDARD: Final = (0, 1, 2)


def start_in_background(work: Callable[[Report], None]) -> bytes:
    """Run `work` in a process of its own, and return what it reports, or nothing if it ended.

    The process has its own session and no parent that would have to wait for it. Until it
    reports, it shares the caller's standard error, and none of the caller's other files. If the
    caller is gone by then, `Report` raises BrokenPipeError.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _run_detached(work, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as reported:
        return reported.read()


def _run_detached(work: Callable[[Report], None], writer: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(max(_STANDARD) + 1, writer)
        os.closerange(writer + 1, _OPEN_FILES_MAX)
        work(lambda report: _report(writer, report))
        status = 0
    finally:
        os._exit(status)


def _report(writer: int, report: bytes) -> None:
    """Report to the caller, and close the caller's terminal or pipes."""
    os.write(writer, report)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in _STANDARD:
        os.dup2(nowhere, number)
    os.close(nowhere)
    os.close(writer)
