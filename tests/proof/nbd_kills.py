"""`python -m tests.proof.nbd_kills`: an NBD server under load is killed, again and again.

Four clients write, zero, and flush blocks of one volume, each over a connection of its own; at
times one more takes snapshots by RPC. Mostly the volume is new and thin in each round: then its
map changes, which a flush must make durable. After every SIGKILL the store is opened, and every
block compared with what was acknowledged: a flush covers all writes that were acknowledged to any
client before it began, FUA its own write. What was written since, or was in progress, may be
there. With fio installed it writes to a second volume meanwhile, for load.
"""

import argparse
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blobstore import VolumeStore, check
from blobstore.nbd.constants import Command, CommandFlag
from tests.nbd.wire import Wire
from tests.rpc.client import Client

_BLOCK: Final = 4096
_CLUSTER: Final = 16 << 10
_SIZE: Final = 256 * _CLUSTER
_BLOCKS: Final = 256
_CLIENTS: Final = 4
_IN_FLIGHT: Final = 8
_START_S: Final = 60
_LONGEST_WORK_S: Final = 10
_MOST_WRITES: Final = 800
_LOOK_AGAIN_S: Final = 0.002
_WITH_SNAPSHOTS: Final = 0.3
_NEW_VOLUME: Final = 0.8
_FLUSHES: Final = 0.1
_ZEROING: Final = 0.1
_FUA: Final = (0.0, 0.0, 0.1)
"""The share of writes with FUA, in different rounds: each of them is a flush as well."""
_ZEROES: Final = bytes(_BLOCK)


@dataclass
class Version:
    """One content that a block may have."""

    number: int
    content: bytes


@dataclass
class Ledger:
    """What each block, the first of a cluster, may hold, as far as answers said so."""

    guard: threading.Lock = field(default_factory=threading.Lock)
    possible: list[list[Version]] = field(
        default_factory=lambda: [[Version(0, _ZEROES)] for _block in range(_BLOCKS)]
    )
    acknowledged: list[int] = field(default_factory=lambda: [0] * _BLOCKS)
    numbers: int = 0
    flushes: int = 0

    def begin(self, block: int, *, zeroes: bool) -> Version:
        """Note a write that begins."""
        with self.guard:
            self.numbers += 1
            number = self.numbers
            content = _ZEROES if zeroes else struct.pack(">Q", number) * (_BLOCK // 8)
            version = Version(number, content)
            self.possible[block].append(version)
            return version

    def end(self, block: int, version: Version, *, durable: bool) -> None:
        """Note a write that was acknowledged."""
        with self.guard:
            self.acknowledged[block] = version.number
            if durable:
                self._settle(block, version.number)

    def begin_flush(self) -> list[int]:
        """Return what a flush that begins now covers."""
        with self.guard:
            return list(self.acknowledged)

    def end_flush(self, covered: Sequence[int]) -> None:
        """Note a flush that was acknowledged."""
        with self.guard:
            self.flushes += 1
            for block, number in enumerate(covered):
                self._settle(block, number)

    def _settle(self, block: int, number: int) -> None:
        self.possible[block] = [each for each in self.possible[block] if each.number >= number]

    def compare(self, content: bytes) -> list[str]:
        """Return what is missing, and go on from what is there."""
        problems: list[str] = []
        for block in range(_BLOCKS):
            found = content[block * _CLUSTER :][:_BLOCK]
            fitting = [each for each in self.possible[block] if each.content == found]
            if not fitting:
                numbers = [each.number for each in self.possible[block]]
                problems.append(f"block {block}: {found[:8].hex()}, expected one of {numbers}")
                fitting = [Version(self.acknowledged[block], found)]
            self.possible[block] = fitting[-1:]
            self.acknowledged[block] = fitting[-1].number
        return problems


class Writer(threading.Thread):
    """A client that writes its share of the blocks until the server is gone."""

    def __init__(self, path: str, ledger: Ledger, share: int, seed: int, fua: float) -> None:
        super().__init__(daemon=True)
        self._path, self._ledger, self._fua = path, ledger, fua
        self._blocks = list(range(share, _BLOCKS, _CLIENTS))
        self._random = random.Random(seed)

    def run(self) -> None:
        structured = self._random.random() < 0.5
        with suppress(OSError, EOFError), Wire(self._path) as wire:
            wire.begin("load", structured=structured)
            while True:
                self._step(wire)

    def _step(self, wire: Wire) -> None:
        if self._random.random() < _FLUSHES:
            covered = self._ledger.begin_flush()
            if wire.request(Command.FLUSH).error == 0:
                self._ledger.end_flush(covered)
            return
        begun = [self._send(wire, block) for block in self._random.sample(self._blocks, _IN_FLIGHT)]
        for block, version, durable in begun:
            if wire.answer(Command.WRITE).error == 0:
                self._ledger.end(block, version, durable=durable)

    def _send(self, wire: Wire, block: int) -> tuple[int, Version, bool]:
        zeroes, durable = self._random.random() < _ZEROING, self._random.random() < self._fua
        version = self._ledger.begin(block, zeroes=zeroes)
        command = Command.WRITE_ZEROES if zeroes else Command.WRITE
        flags = CommandFlag.FUA if durable else 0
        data = b"" if zeroes else version.content
        wire.send(wire.encoded(command, block * _CLUSTER, _BLOCK, data, flags))
        return block, version, durable


class Snapshots(threading.Thread):
    """A client of the RPC server that makes snapshots and deletes them again."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._path = path

    def run(self) -> None:
        with suppress(Exception):  # the connection ends with the server, in the middle of anything
            client = Client(self._path)
            while True:
                client("bdev_lvol_snapshot", lvol_name="vms/load", snapshot_name="s")
                client("bdev_lvol_delete", name="vms/s")


def make_store(image: Path) -> None:
    """Make a store with two thin volumes, of which `load` begins as a clone of zeroes."""
    with VolumeStore.create(image, name="vms", size="64MiB", cluster_size=_CLUSTER) as store:
        store.create_volume("load", _SIZE, thin=True).close()
        store.create_volume("fio", "4MiB", thin=True).close()


def renew_volume(image: Path) -> None:
    """Begin with another volume that holds nothing."""
    with VolumeStore.open(image) as store:
        store.delete_volume("load")
        store.create_volume("load", _SIZE, thin=True).close()


def kill_once(directory: Path, ledger: Ledger, chance: random.Random) -> list[str]:
    """Serve the store under load, kill the server, and return what is wrong then."""
    nbd, rpc = str(directory / "n"), str(directory / "r")
    for path in (nbd, rpc):
        Path(path).unlink(missing_ok=True)
    command = [sys.executable, "-m", "blobstore", "serve", str(directory / "disk.img"), "--quiet"]
    with ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen([*command, "--nbd", f"unix:{nbd}", "--rpc", rpc],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )  # fmt: skip
        stack.callback(server.kill)
        assert server.stdout is not None
        if not server.stdout.readline():
            return ["the server did not start"]
        fua = chance.choice(_FUA)
        load = [
            Writer(nbd, ledger, share, chance.randrange(1 << 30), fua) for share in range(_CLIENTS)
        ]
        threads: list[threading.Thread] = [*load]
        if chance.random() < _WITH_SNAPSHOTS:
            threads.append(Snapshots(rpc))
        for thread in threads:
            thread.start()
        fio = _start_fio(directory, nbd, stack)
        _wait_for_writes(ledger, chance.randrange(_MOST_WRITES))
        server.kill()
        server.wait()
        for thread in threads:
            thread.join(_START_S)
        if fio is not None:
            fio.kill()
    return judge(directory / "disk.img", ledger)


def _wait_for_writes(ledger: Ledger, count: int) -> None:
    """Wait until so many more writes have begun; on a slow machine, for some seconds."""
    end, deadline = ledger.numbers + count, time.monotonic() + _LONGEST_WORK_S
    while ledger.numbers < end and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)


def _start_fio(directory: Path, path: str, stack: ExitStack) -> "subprocess.Popen[bytes] | None":
    if shutil.which("fio") is None:
        return None
    options = "--name=load --thread --ioengine=nbd --rw=randwrite --bs=4k --size=4m --iodepth=8"
    more = ["--time_based", "--runtime=60", "--fsync=16", f"--uri=nbd+unix:///fio?socket={path}"]
    command = ["fio", *options.split(), *more]
    quiet = subprocess.DEVNULL
    fio = subprocess.Popen(command, cwd=directory, stdout=quiet, stderr=quiet)
    return stack.enter_context(fio)


def judge(image: Path, ledger: Ledger) -> list[str]:
    """Open what is left, compare, and check the store after a clean end."""
    with VolumeStore.open(image) as store:
        with store.open_volume("load") as volume:
            problems = ledger.compare(volume.read(_SIZE))
        if "s" in store:
            store.delete_volume("s")
    report = check(image)
    return problems + [str(finding) for finding in report.findings if not report.clean]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill so many servers; the exit code is 1 if something was missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.nbd_kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    chance, ledger = random.Random(options.seed), Ledger()
    writes = flushes = missing = 0
    with tempfile.TemporaryDirectory(prefix="nbd") as name:
        directory = Path(name)
        make_store(directory / "disk.img")
        for number in range(1, options.kills + 1):
            if chance.random() < _NEW_VOLUME:
                renew_volume(directory / "disk.img")
                ledger = Ledger()
            before = ledger.numbers, ledger.flushes
            problems = kill_once(directory, ledger, chance)
            writes += ledger.numbers - before[0]
            flushes += ledger.flushes - before[1]
            missing += bool(problems)
            for problem in problems:
                print(f"BAD seed {options.seed}, kill {number}: {problem}", flush=True)
    print(f"{options.kills} kills, {writes} writes, {flushes} flushes, {missing} bad")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
