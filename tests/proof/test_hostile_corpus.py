"""Every hostile image ends in an answer or a typed error, and in bounded memory.

Whether each takes no more than 2 s and 0.2 ms for each page is what `make hostile` tells, and so
is what comes of the images that take long, and of each both clean and dirty: here other tests run
beside it, and only what hangs is found.
"""

import json
import subprocess
import sys
from collections import defaultdict
from typing import Any, Final

import pytest

from blobstore.api.blobstore import Blobstore
from tests.proof.forge import Forge, flags, runs, table, xattr
from tests.proof.hostile import IMAGES, STEPS, forged, memory_for, time_for
from tests.proof.hostile_stores import (
    COSTLY,
    clones,
    snapshots,
    snapshots_with_pages,
    snapshots_with_runs,
)
from tests.proof.image_device import SparseDevice
from tests.proof.observe import observe

COMMAND: Final = [sys.executable, "-m", "tests.proof.hostile", "--cheap", "--json"]
HANGS: Final = ["--limit", "15"]
FEWER: Final = 1000
FEWER_IMAGES: Final = {
    "snapshots": snapshots(FEWER),
    "clones": clones(FEWER),
    "snapshots with runs": snapshots_with_runs(FEWER),
    "snapshots with extent pages": snapshots_with_pages(FEWER),
}


def test_images_made_to_hurt_do_no_harm() -> None:
    """The command forks, which a test process with threads may not."""
    ended = subprocess.run([*COMMAND, *HANGS], capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in ended.stdout.splitlines():
        step = json.loads(line)
        steps[step["image"]].append(step)
    assert {*steps} == IMAGES.keys() - COSTLY
    states = [taken[0]["clean"] for taken in steps.values()]
    assert min(states.count(True), states.count(False)) > len(states) / 3
    assert all([step["step"] for step in taken] == list(STEPS) for taken in steps.values())
    bad = [step for taken in steps.values() for step in taken if step["problem"]]
    assert bad == []


def test_a_forged_store_without_lies_is_sound() -> None:
    forge = Forge()
    forge.chain(0, flags() + xattr("k", b"v"), table(4, (0, 1)))
    forge.root(5, flags(0) + runs((40, 2)))
    with Blobstore.open(forge.device(read_only=True), read_only=True) as store:
        seen = observe(store)
    assert seen.errors == {}
    assert [blob.size for blob in seen.blobs.values()] == [4 * 16384, 2 * 16384]
    assert next(iter(seen.blobs.values())).xattrs == (("k", b"v"),)


@pytest.mark.parametrize("clean", [pytest.param(True, id="clean"), pytest.param(False, id="dirty")])
@pytest.mark.parametrize("kind", FEWER_IMAGES)
def test_a_thousand_snapshots_or_clones_open_list_and_read(kind: str, clean: bool) -> None:
    forge = Forge(clean=clean)
    FEWER_IMAGES[kind](forge)
    with Blobstore.open(forge.device(read_only=True), read_only=True) as store:
        ids = store.blob_ids()
        assert len(ids) == FEWER
        with store.open_blob(ids[-1]) as blob:
            assert blob.read(blob.size) == bytes(blob.size)
            assert blob.info.allocated_clusters == ("with" in kind)
        assert not any(entry.error for entry in store.list_blobs())


def test_what_an_image_may_cost_follows_the_metadata_that_it_uses() -> None:
    small, large = (forged(name, clean=True) for name in ("own parent", "5000 half-made snapshots"))
    assert 64 << 20 < memory_for(small) < 65 << 20
    assert memory_for(large) > (64 << 20) + 10_000 * 16 * 4096
    assert 2 < time_for(small) < 2.01
    assert 4 < time_for(large) < 4.1
    no_store = forged("cluster size 0", clean=True)
    assert (memory_for(no_store), time_for(no_store)) == (64 << 20, 2)


def test_a_sparse_device_keeps_what_is_written_and_no_more() -> None:
    device = SparseDevice(1 << 62, {3: bytes([7]) * 4096})
    device.write(3 * 4096 - 2, [b"abcd"])
    assert device.read(3 * 4096 - 4, 8) == b"\0\0abcd\7\7"
    device.write_zeroes(3 * 4096 - 1, 4096)
    assert device.read(3 * 4096 - 2, 4) == b"a\0\0\0"
    assert device.read(4 * 4096 - 2, 3) == b"\0\7\0"
