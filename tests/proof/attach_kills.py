"""`python -m tests.proof.attach_kills`: what serves a device is killed, again and again.

Blocks of an attached thin volume, each in a cluster of its own, are written past the page cache,
and flushed now and then. In some rounds the volume is discarded first. At a random moment the
process gets SIGKILL. The kernel must return an error, not hang. The dead device is detached and
the volume attached again, which recovers the store. Then every block must hold what was written
last before the last completed flush, or something that was written later.
"""

import argparse
import fcntl
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from blobstore import VolumeStore
from blobstore.units import KIB
from tests.attach.attachments import Attachments, attachments

_BLOCK: Final = 4 * KIB
_BLOCKS: Final = 256
_CLUSTER: Final = 16 * KIB
_WRITES_MAX: Final = 20000
_FLUSH_EVERY: Final = 16
_LONGEST_WORK_S: Final = 0.5
_DISCARDED: Final = 0.5  # the share of rounds
_BLKDISCARD: Final = 0x1277  # linux/fs.h
_STAMP: Final = struct.Struct("<Q")


class LostError(Exception):
    """A block does not hold what was durable."""


class Ledger:
    """What each block may hold: what was last flushed, and what was written since."""

    def __init__(self) -> None:
        self._allowed: list[list[int]] = [[0] for _block in range(_BLOCKS)]
        self._next = 1

    def begin_write(self, block: int) -> int:
        """Return the number to be written; from now on the block may hold it."""
        number = self._next
        self._next += 1
        self._allowed[block].append(number)
        return number

    def begin_discard(self) -> None:
        """Note that from now on every block may be zero."""
        for numbers in self._allowed:
            numbers.append(0)

    def flushed(self) -> None:
        """Note that a flush has completed: of every block only the last number is allowed."""
        self._allowed = [numbers[-1:] for numbers in self._allowed]

    def check(self, block: int, found: int) -> None:
        """Compare a block, and take what it holds as the truth.

        Raises:
            LostError: It holds something else than it may.
        """
        if found not in self._allowed[block]:
            raise LostError(f"block {block}: found {found}, expected one of {self._allowed[block]}")
        self._allowed[block] = [found]

    @property
    def count(self) -> int:
        """How many writes there were."""
        return self._next - 1


def work_until_killed(device: Path, ledger: Ledger, chance: random.Random) -> None:
    """Write and flush until the kernel returns an error."""
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _BLOCK) as buffer:
            if chance.random() < _DISCARDED:
                ledger.begin_discard()
                fcntl.ioctl(descriptor, _BLKDISCARD, struct.pack("QQ", 0, _BLOCKS * _CLUSTER))
            for count in range(_WRITES_MAX):
                block = chance.randrange(_BLOCKS)
                buffer[:] = _STAMP.pack(ledger.begin_write(block)) * (_BLOCK // _STAMP.size)
                os.pwritev(descriptor, [buffer], block * _CLUSTER)
                if count % _FLUSH_EVERY == 0:
                    os.fsync(descriptor)
                    ledger.flushed()
    except OSError:
        pass  # the process is gone
    finally:
        os.close(descriptor)


def check_all(device: Path, ledger: Ledger) -> None:
    """Compare every block.

    Raises:
        LostError: As `Ledger.check`, or a block is torn.
    """
    content = device.read_bytes()
    for block in range(_BLOCKS):
        data = content[block * _CLUSTER : block * _CLUSTER + _BLOCK]
        (number,) = _STAMP.unpack_from(data)
        ledger.check(block, number)
        if data != _STAMP.pack(number) * (_BLOCK // _STAMP.size):
            raise LostError(f"block {block}: torn, begins with {number}")


def kill_rounds(attached: Attachments, image: Path, kills: int, seed: int) -> Ledger:
    """Kill the process so many times; return what was written.

    Raises:
        LostError: Something that was flushed is not there.
    """
    with VolumeStore.create(image, name="vms", size="32MiB", cluster_size=_CLUSTER) as vms:
        vms.create_volume("db", _BLOCKS * _CLUSTER, thin=True)
    chance, ledger = random.Random(seed), Ledger()
    for _round in range(kills):
        device = attached.attach(image, "db")
        check_all(device, ledger)
        process = os.pidfd_open(attached.pids[-1])
        timer = threading.Timer(
            chance.uniform(0, _LONGEST_WORK_S), signal.pidfd_send_signal, (process, signal.SIGKILL)
        )
        timer.start()
        work_until_killed(device, ledger, chance)
        timer.join()
        os.close(process)
        attached.clear_killed(device)
    device = attached.attach(image, "db")
    check_all(device, ledger)
    attached.detach(device)
    checked = attached.run("check", image)
    if checked.status != 0 or not attached.is_empty():
        raise LostError(f"check: {checked.text}{checked.stderr}")
    return ledger


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds, and print how many writes there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    with attachments() as attached, tempfile.TemporaryDirectory() as name:
        try:
            ledger = kill_rounds(attached, Path(name) / "vms.img", given.kills, given.seed)
        except LostError as error:
            print(error)
            return 1
    print(f"{given.kills} kills, {ledger.count} writes: all that was flushed is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
