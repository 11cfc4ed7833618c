"""`python -m tests.proof.recorded_cuts`: power cuts of the real program, judged from outside.

The simulated disk sees what goes through it. Here the command line runs on a
real file, strace records its system calls, and the states that a cut can leave
of these are made and looked at: by opening, reading and checking them.

An ordinary command must leave every blob that it is not about as it was, and no
error; a repair and an undo the file as it was, as it is to be, or marked, and
then `undo` brings every byte back; `init` no store or an empty one. What is made
beside the image must be durable before the image changes.
"""

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from blobstore import Blobstore, BlobstoreError, check, undo
from blobstore.errors import CorruptError
from blobstore.fsck.finding import Severity
from tests.proof.image_device import ImageDevice
from tests.proof.observe import Seen, observe
from tests.proof.system_calls import (
    Call,
    Changed,
    Left,
    Synced,
    left_by_cuts,
    may_trace,
    record,
    run_killed,
)

IMAGE: Final = "disk.img"
UNDO: Final = "disk.img.undo-1"

FIRST_UNDO: Final = "disk.img.first"
"""A copy of the undo file of what was killed."""

_KILLED_AT: Final = 2
_SIZE: Final = "2MiB"
_CLUSTER: Final = "16KiB"
_CUT_OFF: Final = 46
_DAMAGED_BYTE: Final = 4 * 4096 + 4000
"""In the root page of the first blob."""


@dataclass(slots=True)
class Recorded:
    """A command, the image before and after it, and what it did to files."""

    name: str
    base: bytes
    final: bytes
    calls: Sequence[tuple[str, Call]]
    directory: Path

    @property
    def image_calls(self) -> list[Call]:
        """What it did to the image."""
        return [call for path, call in self.calls if path == IMAGE]

    def is_all_else_durable_first(self) -> bool:
        """Tell whether other files were synced, with their names, before the image changed."""
        unsynced: set[str] = set()
        for path, call in self.calls:
            if path == IMAGE and isinstance(call, Changed):
                return not unsynced
            if path != IMAGE:
                unsynced |= {path, "."} if isinstance(call, Changed) else set()
                unsynced -= {path} if isinstance(call, Synced) else set()
        return True


Judge = Callable[[bytes], str | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A command that is recorded, and its judge.

    Before it the store may be damaged, others may run, and one that gets a SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    judge: Callable[["Recorded"], Judge]
    is_damaged: bool = False
    before: tuple[tuple[str, ...], ...] = ()
    killed: tuple[str, ...] = ()


class Shop:
    """A directory in which the program is run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = b""
        paths = [str(Path(__file__).parents[2] / "src"), *filter(None, [os.getenv("PYTHONPATH")])]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    @property
    def image(self) -> Path:
        """The store."""
        return self.directory / IMAGE

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "blobstore.cli", *arguments]

    def run(self, arguments: Sequence[str], *, status: int = 0) -> list[tuple[str, Call]]:
        """Run the program under strace.

        Raises:
            AssertionError: It ended with another status.
        """
        ended, calls = record(self._command(arguments), self.directory, self.environment)
        if ended != status:
            raise AssertionError(f"{' '.join(arguments)}: status {ended}, expected {status}")
        return calls

    def prepare(self) -> None:
        """Make the directory and the store: a thick blob, a thin one with a snapshot."""
        self.directory.mkdir()
        (self.directory / "mail.raw").write_bytes(random.Random(1).randbytes(50_000))
        (self.directory / "part.raw").write_bytes(random.Random(3).randbytes(20_000))
        (self.directory / "vol0.raw").write_bytes(random.Random(2).randbytes(40_000))
        self.run(["init", IMAGE, "--size", _SIZE, "--cluster-size", _CLUSTER, "--md-pages", "24"])
        self.run(["import", IMAGE, "mail.raw", "--name", "mail"])
        self.run(["import", IMAGE, "vol0.raw", "--name", "vol0", "--thin"])
        self.run(["snapshot", IMAGE, "vol0", "monday"])
        self.base = self.image.read_bytes()

    def record(self, step: Step) -> Recorded:
        """Put the image there, run the step, and return what it did."""
        for left in self.directory.glob(f"{IMAGE}*"):
            left.unlink()
        content = bytearray(self.base)
        if step.is_damaged:
            content[_DAMAGED_BYTE] ^= 0xFF
        self.image.write_bytes(content)
        for arguments in step.before:
            self.run(arguments, status=_status_of(arguments))
        if step.killed:
            command = self._command(step.killed)
            run_killed(command, self.directory, self.environment, at_flush=_KILLED_AT)
            shutil.copy(self.directory / UNDO, self.directory / FIRST_UNDO)
        found = self.image.read_bytes()
        calls = self.run(step.command, status=_status_of(step.command))
        return Recorded(step.name, found, self.image.read_bytes(), calls, self.directory)


def _status_of(arguments: Sequence[str]) -> int:
    """Return the status with which a command ends here: 1 for a repair that leaves nothing."""
    return 1 if "--repair" in arguments else 0


# Judging


def _seen(content: bytes) -> Seen:
    try:
        with Blobstore.open(ImageDevice(bytearray(content), read_only=True), read_only=True) as it:
            return observe(it)
    except BlobstoreError as error:
        return Seen(refusal=error.strerror)


def _errors(content: bytes) -> list[str]:
    report = check(ImageDevice(bytearray(content), read_only=True))
    return [str(each) for each in report.findings if each.severity is Severity.ERROR]


def ordinary(recorded: Recorded) -> Judge:
    """Blobs that the command is not about stay as they are; the others can be read."""
    before, after = _seen(recorded.base), _seen(recorded.final)
    kept = {key: blob for key, blob in before.blobs.items() if after.blobs.get(key) == blob}

    def judge(content: bytes) -> str | None:
        seen = _seen(content)
        if seen.refusal is not None or seen.errors or (errors := _errors(content)):
            return f"is damaged: {seen.refusal or seen.errors or errors}"
        for blob_id, blob in kept.items():
            if seen.blobs.get(blob_id) != blob:
                return f"blob {blob_id:#x} has changed"
        return None

    return judge


def repairing(recorded: Recorded) -> Judge:
    """Old, new, or marked; what is marked can be taken back."""
    return _old_new_or_marked(recorded, old=recorded.base)


def undoing(recorded: Recorded) -> Judge:
    """The same; old is what comes in the end."""
    return _old_new_or_marked(recorded, old=recorded.final)


def repairing_again(recorded: Recorded) -> Judge:
    """The same; old is what the undo file of what was killed brings back."""
    restored = bytearray(recorded.base)
    undo(ImageDevice(restored), recorded.directory / FIRST_UNDO)
    return _old_new_or_marked(recorded, old=bytes(restored))


def _old_new_or_marked(recorded: Recorded, *, old: bytes) -> Judge:
    files = [recorded.directory / name for name in (UNDO, FIRST_UNDO)]

    def judge(content: bytes) -> str | None:
        if content in (old, recorded.base, recorded.final):
            return None
        problems = [_judge_marked(content, old, file) for file in files if file.exists()]
        return None if None in problems else "; ".join(filter(None, problems))

    return judge


def _judge_marked(content: bytes, old: bytes, undo_file: Path) -> str | None:
    seen = _seen(content)
    if seen.refusal is None or "was cut off" not in seen.refusal:
        return f"is neither old nor new, and not marked: {seen.refusal}"
    if not any(f"error {_CUT_OFF}:" in each and UNDO in each for each in _errors(content)):
        return "check does not name the undo file"
    device = ImageDevice(restored := bytearray(content))
    try:
        undo(device, undo_file)
    except CorruptError as error:
        return f"undo refuses: {error}"
    return None if restored == old else "undo does not bring every byte back"


def making(recorded: Recorded) -> Judge:
    """No store, or an empty one; before the first change what was there."""

    def judge(content: bytes) -> str | None:
        seen = _seen(content)
        if content == recorded.base or seen.refusal is not None:
            return None
        if seen.blobs or seen.errors:
            return "something of the store that was there is left"
        errors = _errors(content)
        return f"is damaged: {errors}" if errors else None

    return judge


# The steps

_REPAIR: Final = ("check", IMAGE, "--repair", "all")

STEPS: Final = (
    Step("import", ("import", IMAGE, "mail.raw", "--name", "more"), ordinary),
    Step("snapshot", ("snapshot", IMAGE, "vol0", "tuesday"), ordinary),
    Step("clone", ("clone", IMAGE, "monday", "web"), ordinary),
    Step("delete", ("delete", IMAGE, "mail", "--yes"), ordinary),
    Step("delete snapshot", ("delete", IMAGE, "monday", "--yes"), ordinary),
    Step("inflate", ("inflate", IMAGE, "vol0"), ordinary),
    Step("xattr", ("xattr", "set", IMAGE, "vol0", "owner", "me"), ordinary),
    Step("resize", ("resize", IMAGE, "mail", "128KiB"), ordinary),
    Step("write", ("write", IMAGE, "vol0", "part.raw"), ordinary),
    Step("repair", _REPAIR, repairing, is_damaged=True),
    Step("undo", ("undo", IMAGE, UNDO), undoing, before=(_REPAIR,), is_damaged=True),
    Step("repair again", _REPAIR, repairing_again, is_damaged=True, killed=_REPAIR),
    Step(
        "undo again",
        ("undo", IMAGE, UNDO),
        undoing,
        is_damaged=True,
        before=(_REPAIR,),
        killed=("undo", IMAGE, UNDO),
    ),
    Step("init", ("init", IMAGE, "--yes", "--cluster-size", "64KiB"), making),
    Step("init smaller", ("init", IMAGE, "--yes", "--size", "1MiB"), making),
)


@dataclass(slots=True)
class Outcome:
    """How many states were made and looked at, by command and model, and the bad ones."""

    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    looked_at: int = 0
    bad: list[str] = field(default_factory=list)


def explore(recorded: Recorded, judge: Judge, *, samples: int, outcome: Outcome) -> None:
    """Judge all states of a record."""
    if not recorded.is_all_else_durable_first():
        outcome.bad.append(f"{recorded.name}: the image changes before other files are durable")
    rng = random.Random(recorded.name)
    looked_at: set[bytes] = set()
    for left in left_by_cuts(recorded.base, recorded.image_calls, rng, samples=samples):
        outcome.states[recorded.name, left.model] += 1
        key = blake2b(left.content, digest_size=16).digest()
        if key not in looked_at:
            looked_at.add(key)
            outcome.looked_at += 1
            problem = judge(left.content)
            if problem is not None:
                outcome.bad.append(_said(recorded, left, problem))
    if left.content != recorded.final:
        outcome.bad.append(f"{recorded.name}: the calls do not lead to what is there")


def _said(recorded: Recorded, left: Left, problem: str) -> str:
    return (
        f"{recorded.name}: {left.model}, call {left.at} of {len(recorded.image_calls)}: {problem}"
    )


def explore_program(shop: Shop, *, samples: int, names: Sequence[str] | None = None) -> Outcome:
    """Run the steps in a shop that was prepared, and judge what cuts leave of each."""
    outcome = Outcome()
    for step in STEPS:
        if names is None or step.name in names:
            recorded = shop.record(step)
            explore(recorded, step.judge(recorded), samples=samples, outcome=outcome)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was looked at; the exit code is 1 if a state was bad, 2 without strace."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.recorded_cuts")
    parser.add_argument("--samples", type=int, default=400, help="subsets of a flush, and tears")
    parser.add_argument("names", nargs="*", help="commands; default: all")
    options = parser.parse_args(arguments)
    if not may_trace():
        print("no strace, or tracing is not allowed", file=sys.stderr)
        return 2
    began = time.monotonic()
    with TemporaryDirectory() as directory:
        shop = Shop(Path(directory) / "work")
        shop.prepare()
        outcome = explore_program(shop, samples=options.samples, names=options.names or None)
    for name in dict.fromkeys(name for name, _model in outcome.states):
        counts = {model: n for (each, model), n in outcome.states.items() if each == name}
        print(f"{name:16} " + "  ".join(f"{model} {n:6}" for model, n in counts.items()))
    for line in outcome.bad[:20]:
        print(f"BAD {line}")
    total, seconds = sum(outcome.states.values()), time.monotonic() - began
    print(f"{total} states, {outcome.looked_at} distinct, {len(outcome.bad)} bad, {seconds:.0f} s")
    return 1 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
