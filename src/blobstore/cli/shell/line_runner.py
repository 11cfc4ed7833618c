"""One line after the other, on one open store."""

import errno
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from blobstore.cli.group import execute, wants_json
from blobstore.cli.interruption import BROKEN_PIPE, INTERRUPTED, TERMINATED
from blobstore.cli.options import StoreOptions
from blobstore.cli.output import print_error
from blobstore.cli.shell.command_set import EndOfShellError, shell_group


@dataclass(slots=True)
class LineRunner:
    """The store that is open for all commands, and whether the user has left."""

    options: StoreOptions
    ended: bool = False

    def run_line(self, line: str, *, place: str = "") -> int:
        """Run one line; return its exit status. A message begins with `place`."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            message = f"{place}{str(error).lower()}"
            print_error(message, errno.EINVAL, as_json=self.options.as_json)
            return 2
        return self._run_words(words, place) if words else 0

    def _run_words(self, words: list[str], place: str) -> int:
        try:
            return execute(
                shell_group,
                words,
                prog_name="",
                as_json=self.options.as_json or wants_json(words),
                obj=self.options,
                place=place,
            )
        except EndOfShellError:
            self.ended = True
            return 0


def run_script(runner: LineRunner, lines: Iterable[bytes], *, keep_going: bool) -> int:
    """Run a script; return 1 if a line failed, which ends it unless `keep_going` is set.

    A signal, or the end of whoever reads the output, ends it in any case; the status says so.
    """
    failed = False
    for number, line in enumerate(lines, start=1):
        status = runner.run_line(os.fsdecode(line), place=f"line {number}: ")
        if status in (INTERRUPTED, *TERMINATED, BROKEN_PIPE):
            return status
        failed = failed or status != 0
        if runner.ended or (failed and not keep_going):
            break
    return int(failed)
