"""The process that holds a lock, for the message that a store is in use (Linux's /proc).

What /proc cannot tell, such as a process of another user or container, is
left out: a message must not fail.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Final

_PROGRAM: Final = "blobstore"
_COMMAND: Final = re.compile("[a-z-]{1,20}")
_SERVER: Final = "while it runs, its JSON-RPC socket takes snapshots and other changes of volumes"
_ADVICE: Final = {
    f"{_PROGRAM} serve": f"{_SERVER} (serve --rpc PATH)",
    f"{_PROGRAM} rpc": f"{_SERVER} (rpc --socket PATH)",
    f"{_PROGRAM} attach": f"{_SERVER} (attach --rpc PATH); detach of its devices ends it",
    f"{_PROGRAM} mount": "unmounting its directory ends it",
    f"{_PROGRAM} shell": "its prompt takes commands",
}
_LOCKS: Final = "/proc/locks"
_FIELDS: Final = 8  # number, kind, mode, access, process, file, first byte, last byte


def describe_holder(descriptor: int) -> str:
    """Say in words which process holds a lock of the file, such as ``process 4711 (python3)``."""
    with suppress(OSError, ValueError):
        found = os.fstat(descriptor)
        for process in _lockers(found):
            return "this process" if process == os.getpid() else _named(process)
    return "this or another process"


def _lockers(found: os.stat_result) -> Iterator[int]:
    """Yield the processes that hold a lock of the file."""
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    others: list[int] = []
    with open(_LOCKS, encoding="ascii", errors="replace") as locks:
        for line in locks:
            fields = line.split()
            if len(fields) != _FIELDS or fields[1] != "FLOCK":  # one that waits has another field
                continue
            if fields[5] == place:
                yield int(fields[4])
            else:
                others.append(int(fields[4]))
    # An overlay file system shows other numbers there than to `stat`.
    yield from (process for process in others if _has_open(process, found))


def _has_open(process: int, found: os.stat_result) -> bool:
    directory = f"/proc/{process}/fd"
    with suppress(OSError):
        for name in os.listdir(directory):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"{directory}/{name}"), found):
                    return True
    return False


def _named(process: int) -> str:
    with (
        suppress(OSError),
        open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file,
    ):
        name = _printable(file.read().rstrip("\n"))
        return f"process {process} ({_command_of(process) or name})"
    return f"process {process}"


def _command_of(process: int) -> str:
    """Return which of this program's commands the process runs, such as ``blobstore serve``."""
    with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
        words = file.read().split("\0")
    for program, command in pairwise(words):
        if os.path.basename(program) == _PROGRAM and _COMMAND.fullmatch(command):
            return f"{_PROGRAM} {command}"
    return ""


def advice_on(holder: str) -> str | None:
    """Say how to reach a store that one of this program's servers has open, as `describe_holder`.

    None if the holder is none of them: then one can only wait.
    """
    return next((advice for command, advice in _ADVICE.items() if f"({command})" in holder), None)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
