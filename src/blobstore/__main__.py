"""The program: what `blobstore` and `python -m blobstore` run.

A signal that comes while Python imports the command line ends the process at once: nothing has
begun that would have to end properly. As an exception the signal would show its way through the
imports, or be lost in a callback of theirs. So this module, of all modules, does something when
it is imported. `blobstore.cli.interruption` installs other handlers when a command begins.
"""

import os
import sys
from importlib import import_module
from types import FrameType

_signal = import_module("_signal")  # what `signal` imports as well takes a tenth of the start
_MESSAGES = {
    _signal.SIGINT: b"interrupted\n",
    _signal.SIGTERM: b"terminated\n",
    _signal.SIGHUP: b"terminated\n",
}


def _end(number: int, _frame: FrameType | None) -> None:
    try:
        os.write(2, _MESSAGES[number])
    finally:
        os._exit(128 + number)


def _handle(handler: object) -> None:
    """Install a handler of the signals that end a process; one that is ignored stays so."""
    for number in _MESSAGES:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, handler)


_handle(_end)


def main() -> int:
    """Run one command in a process of its own; return the exit status."""
    from blobstore.cli.main import main as run_command

    try:
        return run_command()
    finally:
        _handle(_signal.SIG_IGN)  # the status is known: only Python's own end is left


if __name__ == "__main__":
    sys.exit(main())
