"""Run the program, and let a copy of it get a signal at each import.

    python -m tests.cli.signals_at_imports REPORT SIGNAL ENTRY ARGUMENTS...

ENTRY is `module` for `python -m blobstore`, or what pyproject.toml names as the entry point of the
console script. The copies are forked where Python looks for the module to be imported. REPORT gets
a line for each: the module, the exit status, and what the copy wrote to standard error.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class SignalAtImport:
    """A finder that finds nothing, and forks a copy that gets a signal."""

    def __init__(self, report: Path, number: signal.Signals) -> None:
        self._report = report.open("a")
        self._number = number
        self._main = os.getpid()
        self._has_begun = False

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let a copy be ended here, from the first import on that the program makes."""
        self._has_begun = self._has_begun or name == "blobstore.cli"
        if self._has_begun and os.getpid() == self._main:
            self._try(name)
        return None

    def _try(self, name: str) -> None:
        with tempfile.TemporaryFile("w+") as stderr:
            child = os.fork()
            if child == 0:
                os.dup2(stderr.fileno(), 2)
                signal.raise_signal(self._number)
                return
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            stderr.seek(0)
            self._report.write(json.dumps([name, status, stderr.read()]) + "\n")
            self._report.flush()


def main(report: str, number: str, entry: str, *arguments: str) -> None:
    """Be the program."""
    sys.argv[:] = ["blobstore", *arguments]
    sys.meta_path.insert(0, SignalAtImport(Path(report), signal.Signals[number]))
    if entry == "module":
        runpy.run_module("blobstore", run_name="__main__", alter_sys=True)
    else:
        module, _, function = entry.partition(":")
        sys.exit(getattr(importlib.import_module(module), function)())


if __name__ == "__main__":
    main(*sys.argv[1:])
