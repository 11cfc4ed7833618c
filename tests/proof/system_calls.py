"""What a real program does to a file, as the kernel saw it, and what a power cut leaves of that.

strace records the calls; nothing of this project's devices or drivers is asked.
A call is a change of the file or a flush. What is not covered by a flush may be
missing, in any combination; the last call may have been done in part, sector by
sector. A hole that is punched, or a range that is zeroed, reads as zeroes or as
before; a file that was extended or cut may have its old size.
"""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

SECTOR: Final = 512

_TRACED: Final = (
    "write", "pwrite64", "pwritev", "pwritev2", "fallocate", "ftruncate", "fdatasync", "fsync"
)  # fmt: skip
_LONGEST: Final = 1 << 26
_CALL: Final = re.compile(r"^(\d+) +(\w+)\((\d+)<([^>]*)>(?:, )?(.*)\) += (\d+)")
_BEGUN: Final = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_IOV_TAIL: Final = re.compile(r"\], \d+, (\d+)(?:, (\w+))?$")


@dataclass(frozen=True, slots=True)
class Changed:
    """Bytes that were written; a zeroed range is zeroes."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Sized:
    """A new size of the file."""

    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    """All changes of the file that came before are durable."""


Call = Changed | Sized | Synced


def may_trace() -> bool:
    """Tell whether strace is there and allowed to trace."""
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-f", "-o", os.devnull, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def record(
    command: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> tuple[int, list[tuple[str, Call]]]:
    """Run a command in a directory; return its status, and the calls on files below that, by path.

    Calls on directories are there as well: a name is durable once its directory is synced.
    """
    trace = directory.parent / f"{directory.name}.trace"
    options = ["-f", "-y", "-xx", "-s", str(_LONGEST), "--seccomp-bpf", "-o", str(trace)]
    ran = subprocess.run(
        ["strace", *options, "-e", f"trace={','.join(_TRACED)}", *command],
        cwd=directory,
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        check=False,
    )
    lines = trace.read_text().splitlines()
    trace.unlink()
    calls = [(path, call) for path, call in map(_parse, _whole_lines(lines)) if call is not None]
    root = os.path.realpath(directory)
    return ran.returncode, [
        (os.path.relpath(path, root), call) for path, call in calls if path.startswith(root)
    ]


def run_killed(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], *, at_flush: int
) -> None:
    """Run a command that gets a SIGKILL when it asks for a flush of a file for the nth time."""
    inject = f"inject=fdatasync:signal=KILL:when={at_flush}"
    subprocess.run(
        ["strace", "-f", "-o", os.devnull, "-e", "trace=fdatasync", "-e", inject, *command],
        cwd=directory,
        env=dict(environment),
        capture_output=True,
        check=False,
    )


def _whole_lines(lines: Sequence[str]) -> Iterator[str]:
    """Put calls together that another thread's interrupted; they count from their end on."""
    begun: dict[str, str] = {}
    for line in lines:
        if unfinished := _BEGUN.match(line):
            begun[unfinished[1]] = line.removesuffix(" <unfinished ...>")
        elif resumed := _RESUMED.match(line):
            yield begun.pop(resumed[1]) + resumed[2]
        else:
            yield line


def _parse(line: str) -> tuple[str, Call | None]:
    """Return the path and the call; None where it failed, or changed nothing."""
    found = _CALL.match(line)
    if found is None:
        return "", None
    _pid, name, _descriptor, path, rest, result = found.groups()
    return _bytes_of(path).decode(), _call(name, rest, int(result))


def _call(name: str, rest: str, result: int) -> Call | None:
    if name in ("fdatasync", "fsync"):
        return Synced()
    if name == "ftruncate":
        return Sized(int(rest))
    if name == "fallocate":
        mode, offset, length = rest.split(", ")
        is_zeroing = "ZERO_RANGE" in mode or "PUNCH_HOLE" in mode
        return Changed(int(offset), bytes(int(length))) if is_zeroing else None
    data = b"".join(_bytes_of(each[1]) for each in _STRING.finditer(rest))[:result]
    if len(data) != result:
        raise AssertionError(f"strace shows {len(data)} bytes of {result}")
    if name == "write":  # an undo file, or another that only grows: it matters when, not where
        return Changed(0, data)
    if name == "pwrite64":
        return Changed(int(rest.rsplit(", ", 1)[1]), data)
    tail = _IOV_TAIL.search(rest)
    if tail is None or tail[2] not in (None, "0"):
        raise AssertionError(f"{name}: {rest[-60:]}: flags that are not understood")
    return Changed(int(tail[1]), data)


def _bytes_of(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


# What a cut leaves


@dataclass(frozen=True, slots=True)
class Left:
    """A file as a cut left it; `at` is how many calls had begun."""

    model: str
    at: int
    content: bytes


def left_by_cuts(
    base: bytes, calls: Sequence[Call], rng: random.Random, *, samples: int
) -> Iterator[Left]:
    """Yield the file after every call, and with calls since the last flush missing or torn.

    The last one is what is left when all has been done.
    """
    durable, pending = bytearray(base), list[Changed | Sized]()
    for at, call in enumerate([*calls, Synced()]):
        if isinstance(call, Synced):
            for chosen in _subsets(len(pending), rng, samples):
                yield Left("subset", at, _done(durable, [pending[n] for n in chosen]))
            durable = bytearray(_done(durable, pending))
            pending = []
            continue
        if isinstance(call, Changed):
            for part in _torn(call, rng, samples):
                yield Left("torn", at, _done(durable, [*pending, *part]))
        pending.append(call)
        yield Left("prefix", at, _done(durable, pending))
    yield Left("prefix", len(calls), bytes(durable))


def _done(durable: bytearray, calls: Sequence[Changed | Sized]) -> bytes:
    content = bytearray(durable)
    for call in calls:
        if isinstance(call, Sized):
            content = content[: call.size].ljust(call.size, b"\0")
        else:
            end = call.offset + len(call.data)
            content = content.ljust(end, b"\0") if len(content) < end else content
            content[call.offset : end] = call.data
    return bytes(content)


def _subsets(count: int, rng: random.Random, samples: int) -> Iterator[list[int]]:
    """Yield which calls are done: each one missing, each one alone, and some by chance."""
    if count < 2:
        return
    everything = range(count)
    for one in everything:
        yield [one]
        yield [each for each in everything if each != one]
    for _ in range(samples if count > 2 else 0):
        yield [each for each in everything if rng.random() < 0.5]


def _torn(call: Changed, rng: random.Random, samples: int) -> Iterator[list[Changed]]:
    """Yield parts of a write: all of a short one, of a long one some."""
    starts = range(0, len(call.data), SECTOR)
    for done in _parts(len(starts), rng, samples):
        yield [
            Changed(call.offset + start, call.data[start : start + SECTOR])
            for start, is_there in zip(starts, done, strict=True)
            if is_there
        ]


def _parts(count: int, rng: random.Random, samples: int) -> Iterator[list[bool]]:
    if count < 2:
        return
    if count < samples.bit_length():
        yield from (list(each) for each in product((False, True), repeat=count))
        return
    for _ in range(samples):
        share = rng.random()
        yield [rng.random() < share for _ in range(count)]
