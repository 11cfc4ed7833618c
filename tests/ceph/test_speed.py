"""A volume beside the raw image below it, in one run: the store costs little."""

import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import pytest

from blobstore.api.volumes import VolumeStore
from blobstore.units import GIB, MIB
from tests.ceph.cluster import CephCluster

LENGTH: Final = MIB
SIZE: Final = 256 * MIB
DEPTH: Final = 4
ROUNDS: Final = 5
MUST: Final = 0.8

Request = Callable[[int], object]


def mebibytes_per_second(request: Request, finish: Callable[[], object]) -> float:
    """Let `DEPTH` threads share the range, in order; the flush at the end counts."""
    offsets = iter(range(0, SIZE, LENGTH))
    began = time.perf_counter()
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                at = next(offsets, None)
            if at is None:
                return
            request(at)

    threads = [threading.Thread(target=work) for _number in range(DEPTH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finish()
    return SIZE / MIB / (time.perf_counter() - began)


@pytest.mark.slow
def test_a_volume_has_nearly_the_throughput_of_the_raw_image(
    ceph: CephCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytes(range(256)) * (LENGTH // 256)
    address = ceph.create_image("volume", GIB)
    ceph.create_image("raw", GIB)
    figures: dict[tuple[str, str], list[float]] = {}
    with (
        ceph.image("raw") as raw,
        VolumeStore.create(address, name="vms") as vms,
        vms.create_volume("web", size=SIZE) as web,
    ):
        sides: dict[tuple[str, str], Request] = {
            ("write", "raw"): lambda at: raw.write(content, at),
            ("write", "volume"): lambda at: web.write(content, at),
            ("read", "raw"): lambda at: raw.read(at, LENGTH),
            ("read", "volume"): lambda at: web.read(LENGTH, at),
        }
        finish = {"raw": raw.flush, "volume": web.flush}
        for _round in range(ROUNDS + 1):
            for side, request in sides.items():
                speed = mebibytes_per_second(request, finish[side[1]])
                figures.setdefault(side, []).append(speed)
    ratios = {}
    for what in ("write", "read"):
        raw_median, median = (
            statistics.median(figures[what, side][1:]) for side in ("raw", "volume")
        )
        ratios[what] = median / raw_median
        with capsys.disabled():
            sys.stdout.write(
                f"\nCeph, {what} of 1 MiB at depth {DEPTH}: raw image {raw_median:.0f} MiB/s, "
                f"volume {median:.0f} MiB/s, ratio {ratios[what]:.2f}\n"
            )
    assert min(ratios.values()) >= MUST, ratios
