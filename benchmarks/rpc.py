"""Rows of the RPC server: a process of its own, asked over its socket by one and eight clients."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.counting import CountingDevice, Flushes, flushes_text
from benchmarks.measure import Clock, Goal, Row, Taken, interleaved, missing_row, speed_row
from benchmarks.scale import Scale
from blobstore import VolumeStore
from blobstore.units import KIB, MIB

_SIZE: Final = 512 * MIB
_LISTED: Final = 100
_CLIENTS: Final = 8


class Caller:
    """One connection, which makes a call and waits for its answer."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.fspath(path))
        self._answers = self._socket.makefile("rb")

    def call(self, method: str, **params: object) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params:
            request["params"] = params
        self._socket.sendall(json.dumps(request).encode())
        return json.loads(self._answers.readline())["result"]

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def rows(directory: Path, scale: Scale) -> Iterator[Row]:
    """Calls for what is in memory, and calls that are durable when they are answered."""
    each = _flushes_of_a_life(directory)
    with (
        Flushes(directory / "flushes") as flushes,
        _server(directory) as path,
        ExitStack() as stack,
    ):
        callers = [Caller(path) for _ in range(_CLIENTS)]
        for caller in callers:
            stack.callback(caller.close)
        yield _listing_row(callers[0], scale)
        for count in (1, _CLIENTS):
            yield _life_row(callers[:count], flushes, each, scale)


def _flushes_of_a_life(directory: Path) -> int:
    """Return how many flushes the creation and the deletion of a volume need."""
    path = directory / "counted.img"
    with (
        CountingDevice.create(path, _SIZE) as device,
        VolumeStore.create(device, name="lvs", cluster_size=64 * KIB) as vms,
    ):
        before = device.flush_count
        vms.create_volume("v", MIB, thin=True).close()
        vms.delete_volume("v")
        count = device.flush_count - before
    path.unlink()
    return count


@contextmanager
def _server(directory: Path) -> Iterator[Path]:
    image, path = directory / "served.img", directory / "rpc.sock"
    VolumeStore.create(image, name="lvs", size=_SIZE, cluster_size=64 * KIB).close()
    command = [sys.executable, "-m", "blobstore", "rpc", "--quiet", "--socket", str(path)]
    with subprocess.Popen([*command, str(image)], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(path)
            yield path
        finally:
            process.terminate()
    image.unlink()


def _wait_for(path: Path) -> None:
    while True:
        try:
            Caller(path).close()
        except OSError:
            time.sleep(0.01)
        else:
            return


def _listing_row(caller: Caller, scale: Scale) -> Row:
    for number in range(_LISTED):
        caller.call(
            "bdev_lvol_create", lvs_name="lvs", lvol_name=f"l{number}", size_in_mib=1,
            thin_provision=True,
        )  # fmt: skip

    def ours() -> Taken:
        clock = Clock()
        for _ in range(scale.durable_calls):
            assert len(caller.call("bdev_lvol_get_lvols")) == _LISTED
        return clock.per(scale.durable_calls)

    (taken,) = interleaved(scale.rounds, [ours])
    what = f"RPC: bdev_lvol_get_lvols, {_LISTED} volumes"
    return missing_row(what, "", why="nothing to compare with", ours=taken)


def _life_row(callers: list[Caller], flushes: Flushes, each: int, scale: Scale) -> Row:
    lives = max(2, scale.durable_calls // 2)

    def live(caller: Caller, name: str) -> None:
        for _ in range(lives // len(callers)):
            caller.call(
                "bdev_lvol_create", lvs_name="lvs", lvol_name=name, size_in_mib=1,
                thin_provision=True,
            )  # fmt: skip
            assert caller.call("bdev_lvol_delete", name=f"lvs/{name}") is True

    def ours() -> Taken:
        clock = Clock()
        with ThreadPoolExecutor(len(callers)) as pool:
            list(pool.map(live, callers, map(str, range(len(callers)))))
        return clock.per(lives // len(callers) * len(callers))

    taken = interleaved(scale.rounds, [ours, _repeated(flushes, each, lives)])
    clients = "1 client" if len(callers) == 1 else f"{len(callers)} clients"
    return speed_row(
        f"RPC: create + delete of a volume ({flushes_text(each)}), {clients}",
        "pwrite + fdatasync, as many",
        ours=taken[0],
        yardstick=taken[1],
        goal=Goal(0.5, 0.8),
        per="each",
    )


def _repeated(flushes: Flushes, each: int, lives: int) -> Callable[[], Taken]:
    def yardstick() -> Taken:
        taken = flushes.taken(each * lives)
        return Taken(taken.seconds * each, (taken.cpu or 0) * each)

    return yardstick
