"""`python -m tests.proof.virtual_machine`: a machine on a thin clone, cut off and recovered.

The commands are those of docs/guide-vm.md. A machine boots from the clone over NBD and makes lines
of a log durable, one after the other. In the middle a snapshot of its volume is made. Then the
server is killed, and the machine. Afterwards a machine starts from the volume, which must hold
every line that the first one had called durable; from a clone of the snapshot, whose last line is
one of that time; from that snapshot itself; and from the first one, which nothing has changed.
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.docs.guide_session import GuideSession, commands_of
from tests.proof.small_linux import make_small_linux
from tests.shared import CHECKOUT

_GUIDE: Final = (CHECKOUT / "docs" / "guide-vm.md").read_text(encoding="utf-8")
_SOCKETS: Final = ("vms.sock", "rpc.sock")
_BOOT_TIMEOUT_S: Final = 240
_BOOTED: Final = re.compile(r"VM: booted with (\d+) lines")
_DURABLE: Final = re.compile(r"VM: line (\d+) is durable")
_WRONG: Final = re.compile(r"VM: .*wrong|Kernel panic|EXT4-fs error")


class FailedError(Exception):
    """The machine's disk is not what it must be."""


def guide_lines(*beginnings: str) -> list[str]:
    """Return the commands of the guide that begin so, in its order."""
    return [line for line, _shown in commands_of(_GUIDE) if line.startswith(beginnings)]


class Machine:
    """A running virtual machine, and what its console has shown."""

    def __init__(self, session: GuideSession, line: str) -> None:
        self.shown = ""
        self._process = session.start(line)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.shown += line.decode(errors="replace")

    @property
    def durable(self) -> int:
        """The last line of the log that the machine has called durable."""
        return max((int(number) for number in _DURABLE.findall(self.shown)), default=0)

    def wait(self, is_there: Callable[[], bool]) -> None:
        """Wait until the console has shown something.

        Raises:
            FailedError: The machine has ended, or takes too long, or complains.
        """
        deadline = time.monotonic() + _BOOT_TIMEOUT_S
        while not is_there():
            ended = not self._reader.is_alive() and not is_there()
            if ended or time.monotonic() > deadline or _WRONG.search(self.shown):
                raise FailedError(self.shown[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """Cut the machine off, and take what it has shown to its end."""
        self._process.kill()
        self._process.wait()
        self._reader.join()


def boot(session: GuideSession, export: str, *, read_only: bool) -> int:
    """Start a machine that only looks; return how many lines its log has."""
    (line,) = guide_lines("qemu-system")
    line = line.replace("///web?", f"///{export}?").replace("task=write", "task=look")
    if read_only:
        line = line.replace("if=virtio,", "if=virtio,readonly=on,")
    machine = Machine(session, line)
    try:
        machine.wait(lambda: _BOOTED.search(machine.shown) is not None)
    finally:
        machine.kill()
    found = _BOOTED.search(machine.shown)
    assert found is not None
    return int(found[1])


def write_and_cut_off(session: GuideSession, lines: int) -> tuple[int, int, int]:
    """Let a machine write, snapshot its volume, kill both sides; return how far it was when."""
    (serve,), (qemu,) = guide_lines("blobstore serve"), guide_lines("qemu-system")
    with session.serving(serve, _SOCKETS) as server:
        machine = Machine(session, qemu)
        try:
            machine.wait(lambda: machine.durable >= lines)
            before = machine.durable
            for line in guide_lines("spdk-rpc"):
                session.run(line)
            after = machine.durable
            machine.wait(lambda: machine.durable >= after + lines)
            server.kill()
        finally:
            machine.kill()
    return before, after, machine.durable


def look_again(session: GuideSession, before: int, after: int, last: int) -> None:
    """Start machines from what the cut has left, and compare their logs.

    Raises:
        FailedError: A line is missing, or one too many.
    """
    for name in _SOCKETS:
        (session.directory / name).unlink(missing_ok=True)
    (serve,) = guide_lines("blobstore serve")
    with session.serving(serve, _SOCKETS) as server:
        web = boot(session, "web", read_only=False)
        clone = boot(session, "look", read_only=False)
        monday = boot(session, "monday", read_only=True)
        golden = boot(session, "golden", read_only=True)
        server.terminate()
        status = server.wait(_BOOT_TIMEOUT_S)
    print(f"web has {web} lines, the clone {clone}, monday {monday}, golden {golden}")
    if web < last:
        raise FailedError(f"web: {web} lines, expected {last} that were durable")
    if not before <= clone <= after + 1:
        raise FailedError(f"clone of monday: {clone} lines, expected {before} to {after + 1}")
    if golden != 0 or monday > clone:
        raise FailedError(f"golden: {golden} lines, monday: {monday}")
    if status != 0:
        raise FailedError(f"serve: exit status {status}")


def main(arguments: list[str] | None = None) -> int:
    """Run it once; print how far the machine came, and what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=50, help="lines before and after the snapshot")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="vm-", dir="/tmp") as name:
        session = GuideSession(Path(name))
        make_small_linux(session.directory / "made")
        for file in ("vmlinuz", "initrd.img", "root.img"):
            (session.directory / "made" / file).rename(session.directory / file)
        for line in guide_lines("blobstore init", "blobstore import", "blobstore snap"):
            session.run(line)
        for line in guide_lines("blobstore clone"):
            session.run(line)
        try:
            before, after, last = write_and_cut_off(session, given.lines)
            print(f"snapshot after line {before} to {after}, cut off after line {last}")
            look_again(session, before, after, last)
        except FailedError as error:
            print(error)
            return 1
        done = session.run("blobstore check vms.img")
    print(done.strip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
