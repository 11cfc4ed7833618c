"""Commands that are sent a signal at random moments, and what must hold afterwards.

    python -m tests.proof.interrupted_commands --moments 200

Each moment is a child process, forked from this one so that it need not import
anything, and a fresh copy of the images. The moment is drawn from the time that
the command takes when nothing disturbs it. A second process looks at what is
left, as the user would: through `Blobstore.open`, `check`, and the files there are.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

from blobstore import Blobstore, check, undo
from blobstore.cli.group import COMMANDS, module_of, run
from blobstore.cli.main import main as command_line

CLUSTER: Final = 64 << 10
SIZE: Final = 6 << 20
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_OUT: Final = "out.raw"
_LEAK_AT: Final = 5  # the cluster mask's bits begin here
_PATIENCE_S: Final = 60


@dataclass(frozen=True)
class Ended:
    """How a command ended, and in which directory."""

    directory: Path
    status: int
    stdout: str
    stderr: str

    @property
    def is_done(self) -> bool:
        return self.status in (0, 1)


@dataclass(frozen=True)
class Case:
    """A command, in a directory that `prepare` has filled; `judge` raises AssertionError."""

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None]
    judge: Callable[[Ended], str]


def contents(path: Path) -> dict[int, str]:
    """Return the hash of every blob's content."""
    found: dict[int, str] = {}
    with Blobstore.open(path, read_only=True) as store:
        for blob_id in store.blob_ids():
            with store.open_blob(blob_id) as blob:
                found[blob_id] = hashlib.sha256(blob.read(blob.size)).hexdigest()
    return found


@cache
def pattern(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def make_store(directory: Path, *, snapshot: str = "monday") -> None:
    """Make a store with a blob, its snapshot of all of its clusters, and a file to import."""
    with (
        Blobstore.create(directory / "disk.img", size="40MiB", cluster_size=CLUSTER) as store,
        store.create_blob(SIZE, thin=True, name="disk") as blob,
    ):
        blob.write(pattern(1))
        blob.snapshot(name=snapshot).close()
        blob.write(b"after", SIZE // 2)
    (directory / "in.raw").write_bytes(pattern(2))
    (directory / "device.raw").write_bytes(bytes(SIZE))


def make_leaks(directory: Path) -> None:
    """Make a store whose mask says of many clusters that they are used, and nobody owns them."""
    make_store(directory)
    path = directory / "disk.img"
    with Blobstore.open(path, read_only=True) as store:
        total = store.info.total_clusters
    data = bytearray(path.read_bytes())
    mask_at = int.from_bytes(data[40:44], "little") * 4096
    data[mask_at + _LEAK_AT + total // 8 - 8 : mask_at + _LEAK_AT + total // 8] = b"\xff" * 8
    path.write_bytes(data)
    (directory / "before.img").write_bytes(data)


def overwrite_export(directory: Path) -> None:
    make_store(directory)
    (directory / _OUT).write_bytes(b"mine")


def make_images(directory: Path) -> None:
    """Make a store, and a chain of images whose snapshot has a name that is free in the store."""
    make_store(directory, snapshot="sunday")
    export = ("export", str(directory / "disk.img"), "disk", str(directory / "top.qcow2"))
    assert run([*export, "--chain"]) == 0
    (directory / "disk.img").unlink()
    make_store(directory)


# What must hold


def judge_store(ended: Ended) -> None:
    report = check(ended.directory / "disk.img")
    assert report.clean, f"not sound: {report.findings}"
    assert report.unloaded, f"left dirty: {ended.stderr}"


def judge_import(ended: Ended) -> str:
    judge_store(ended)
    found = contents(ended.directory / "disk.img")
    expected = hashlib.sha256(pattern(2)).hexdigest()
    new = [digest for digest in found.values() if digest == expected]
    assert len(found) - len(new) == 2, f"a blob that is not complete: {ended.stderr}"
    if ended.is_done:
        assert len(new) == 1
        return "done"
    assert bool(new) == ("is complete" in ended.stderr), ended.stderr
    return "complete" if new else "removed"


def judge_import_over(ended: Ended) -> str:
    judge_store(ended)
    found = contents(ended.directory / "disk.img")
    assert len(found) == 2
    if ended.is_done:
        return "done"
    digests = {hashlib.sha256(pattern(2)).hexdigest()}
    whole = digests & set(found.values())
    assert whole or "import again" in ended.stderr or unchanged_disk(found), ended.stderr
    return "whole" if whole else "said"


def unchanged_disk(found: dict[int, str]) -> bool:
    content = bytearray(pattern(1))
    content[SIZE // 2 : SIZE // 2 + 5] = b"after"
    return hashlib.sha256(content).hexdigest() in found.values()


def judge_create(ended: Ended) -> str:
    judge_store(ended)
    new = len(contents(ended.directory / "disk.img")) - 2
    if ended.is_done:
        assert new == 1
        return "done"
    assert new == ("is complete" in ended.stderr), ended.stderr
    return "complete" if new else "removed"


def judge_init(ended: Ended) -> str:
    path = ended.directory / _OUT
    if ended.is_done:
        assert check(path).clean
        return "done"
    assert not path.exists(), "a store that is not finished"
    return "removed"


def judge_export(ended: Ended) -> str:
    judge_store(ended)
    path = ended.directory / _OUT
    assert not list(ended.directory.glob(".*")), "a temporary file is left"
    content = path.read_bytes() if path.exists() else None
    if ended.is_done:
        assert content == pattern(1)
        return "done"
    if content == pattern(1):
        assert "is complete" in ended.stderr, ended.stderr
        return "complete"
    assert content in (None, b"mine"), "a part of the blob under the name of all of it"
    return "removed"


def judge_import_chain(ended: Ended) -> str:
    judge_store(ended)
    found = contents(ended.directory / "disk.img")
    if "import --resume" in ended.stderr:  # the base is a snapshot already
        assert len(found) == 4, ended.stderr
        return "kept"
    if ended.is_done or len(found) == 4:
        assert len(found) == 4, ended.stderr
        assert len({*found.values()}) == 2  # the new two hold what the first two hold
        assert ended.is_done or ended.stderr.count("is complete") == 2, ended.stderr
        return "done" if ended.is_done else "complete"
    assert len(found) == 2, f"blobs that are not complete: {ended.stderr}"
    return "removed"


def judge_export_chain(ended: Ended) -> str:
    judge_store(ended)
    assert not list(ended.directory.glob(".*")), "a temporary file is left"
    images = sorted(path.name for path in ended.directory.glob("*.qcow2"))
    if ended.is_done:
        assert images == ["monday.qcow2", "top.qcow2"]
        return "done"
    if images:
        assert images == ["monday.qcow2", "top.qcow2"]
        assert "2 images are complete" in ended.stderr, ended.stderr
        return "complete"
    return "removed"


def judge_inflate(ended: Ended) -> str:
    judge_store(ended)
    found = contents(ended.directory / "disk.img")
    assert len(found) == 2
    assert unchanged_disk(found)
    assert hashlib.sha256(pattern(1)).hexdigest() in found.values()
    with (
        Blobstore.open(ended.directory / "disk.img", read_only=True) as store,
        store.open_blob(name="disk") as blob,
    ):
        is_clone = blob.info.parent is not None
    if ended.is_done:
        assert not is_clone
        return "done"
    return "clone still" if is_clone else "inflated"


def judge_copy(ended: Ended) -> str:
    judge_store(ended)
    copied = (ended.directory / "device.raw").read_bytes()
    assert len(copied) == SIZE
    if ended.is_done:
        assert copied == pattern(1)
        return "done"
    assert "copy again" in ended.stderr or copied in (bytes(SIZE), pattern(1)), ended.stderr
    return "said"


def judge_repair(ended: Ended) -> str:
    path, saved = ended.directory / "disk.img", ended.directory / "disk.img.undo-1"
    before = (ended.directory / "before.img").read_bytes()
    if ended.is_done:
        judge_store(ended)
        assert unchanged_disk(contents(path))
        return "done"
    if not saved.exists():
        assert path.read_bytes() == before, f"changed, and no undo file: {ended.stderr}"
        return "nothing begun"
    undo(path, saved)
    assert path.read_bytes() == before, "undo does not restore the store"
    return "undone"


CASES: Final = (
    Case("import", ("import", "disk.img", "in.raw", "--thin", "--name", "new"),
         make_store, judge_import),
    Case("import thick", ("import", "disk.img", "in.raw", "--name", "new"),
         make_store, judge_import),
    Case("import over", ("import", "disk.img", "in.raw", "disk", "--yes"),
         make_store, judge_import_over),
    Case("create", ("create", "disk.img", "new", "--size", "8M"), make_store, judge_create),
    Case("snapshot", ("snapshot", "disk.img", "disk", "new"), make_store, judge_create),
    Case("clone", ("clone", "disk.img", "monday", "new"), make_store, judge_create),
    Case("init", ("init", _OUT, "--size", "100M"), make_store, judge_init),
    Case("export", ("export", "disk.img", "monday", _OUT), make_store, judge_export),
    Case("export over", ("export", "disk.img", "monday", _OUT, "--yes"),
         overwrite_export, judge_export),
    Case("export chain", ("export", "disk.img", "disk", "top.qcow2", "--chain"),
         make_store, judge_export_chain),
    *([Case("import chain", ("import", "disk.img", "top.qcow2", "--chain"),
            make_images, judge_import_chain)] if shutil.which("qemu-img") else []),
    Case("inflate", ("inflate", "disk.img", "disk"), make_store, judge_inflate),
    Case("shallow-copy", ("shallow-copy", "disk.img", "monday", "device.raw"),
         make_store, judge_copy),
    Case("check --repair", ("check", "disk.img", "--repair", "leaks"), make_leaks, judge_repair),
)  # fmt: skip


# Running


@dataclass
class Trials:
    """Runs of one command; `seconds` is how long it takes undisturbed."""

    case: Case
    directory: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        (self.directory / "made").mkdir()
        self.case.prepare(self.directory / "made")
        for _round in range(2):  # the first one also imports
            begun = time.monotonic()
            ended = self._run(None, 0.0)
            self.seconds = time.monotonic() - begun
            assert ended.is_done, ended.stderr
            self.case.judge(ended)

    def interrupt(self, number: signal.Signals, moment: float) -> None:
        """Send the signal after a part of the command's time; judge what is left.

        Raises:
            AssertionError: Something is wrong.
        """
        ended = self._run(number, moment * self.seconds)
        if ended.status == -signal.SIGTERM:  # the command line had not installed its handlers yet
            ended = replace(ended, status=128 + number, stderr="terminated\n")
        expected = {0, 128 + number, *([1] if self.case.name == "check --repair" else [])}
        assert ended.status in expected, f"status {ended.status}: {ended.stderr}"
        if not ended.is_done:
            assert ended.stderr.count("\n") == 1, f"not one line: {ended.stderr}"
        self.outcomes[f"{number.name} {self.case.judge(ended)}"] += 1

    def _run(self, number: int | None, seconds: float) -> Ended:
        work = self.directory / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.directory / "made", work)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        child = os.fork()
        if child == 0:
            _be_command(self.case.arguments, work, self.directory)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if number is not None:
            time.sleep(seconds)
            os.kill(child, number)
        give_up_at = time.monotonic() + _PATIENCE_S
        while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > give_up_at:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.001)
        stdout, stderr = (
            (self.directory / name).read_text(errors="replace") for name in ("stdout", "stderr")
        )
        return Ended(work, os.waitstatus_to_exitcode(found[1]), stdout, stderr)


def _be_command(arguments: tuple[str, ...], work: Path, logs: Path) -> None:
    """Be the command line, in a child process, and never return.

    What Python does before it comes to the command line is left out: it has begun nothing.
    """
    status = 99
    try:
        os.chdir(work)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(logs / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        status = command_line(list(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before the command line had control\n")
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def import_everything() -> None:
    """Import all commands: the children need not, and a moment is one of the command's work."""
    for name in COMMANDS:
        __import__(f"blobstore.cli.commands.{module_of(name)}")


def main(arguments: list[str] | None = None) -> int:
    """Interrupt every command; print the counts, and what went wrong with its seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    given = parser.parse_args(arguments)
    import_everything()
    failures = 0
    for case in CASES:
        if given.only not in (None, case.name):
            continue
        with tempfile.TemporaryDirectory(prefix="interrupted-") as directory:
            trials = Trials(case, Path(directory))
            for number in range(given.moments):
                chance = random.Random(f"{given.seed} {case.name} {number}")
                try:
                    trials.interrupt(SIGNALS[number % 2], chance.random())
                except AssertionError as error:
                    failures += 1
                    print(f"{case.name}, moment {number}: {error}")
            counts = ", ".join(f"{count} {name}" for name, count in sorted(trials.outcomes.items()))
            print(
                f"{case.name}: {given.moments} moments in {trials.seconds:.3f} s: {counts}",
                flush=True,
            )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
