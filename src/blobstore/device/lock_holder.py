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
_ENDED_BY: Final = {
    f"{_PROGRAM} serve": "`kill {process}` ends it",
    f"{_PROGRAM} rpc": "`kill {process}` ends it",
    f"{_PROGRAM} attach": "detach of its devices ends it",
    f"{_PROGRAM} mount": "unmounting its directory ends it",
    f"{_PROGRAM} shell": "leaving its prompt ends it",
}
_SOCKET_OPTIONS: Final = {f"{_PROGRAM} rpc": "--socket"}
_SOCKET_OPTION: Final = "--rpc"
_HOLDER: Final = re.compile(r"process (\d+) \((.+)\)")
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
    for program, command in pairwise(_words_of(process)):
        if os.path.basename(program) == _PROGRAM and _COMMAND.fullmatch(command):
            return f"{_PROGRAM} {command}"
    return ""


def _words_of(process: int) -> list[str]:
    with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
        return file.read().split("\0")


def advice_on(holder: str, *, changes: bool) -> str | None:
    """Say what to do if one of this program's servers has a store open, as `describe_holder`.

    A caller that `changes` volumes can ask the server to do it, if that has a JSON-RPC socket.
    Whoever reads has to wait for its end. None if the holder is none of them.
    """
    found = _HOLDER.fullmatch(holder)
    if found is None or found[2] not in _ENDED_BY:
        return None
    ended_by = _ENDED_BY[found[2]].format(process=found[1])
    path = _rpc_socket(int(found[1]), found[2]) if changes else None
    if path is None:
        return ended_by
    return f"its JSON-RPC socket {path} takes snapshots and other changes of volumes; {ended_by}"


def _rpc_socket(process: int, command: str) -> str | None:
    """Return the path of the JSON-RPC socket that is in a server's command line, if one is."""
    option = _SOCKET_OPTIONS.get(command, _SOCKET_OPTION)
    with suppress(OSError):
        for word, following in pairwise(_words_of(process)):
            path = following if word == option else word.removeprefix(f"{option}=")
            if path != word and path:
                return _printable(os.path.join(os.readlink(f"/proc/{process}/cwd"), path))
    return None


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
