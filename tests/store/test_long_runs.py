"""Blobs with run-length extents and many leaves: any calls, against lists of what was written.

Stores are closed and opened in between, or left without being closed, so that maps are
made of runs again and again.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from blobstore import Blob, Blobstore, BusyError, InvalidArgumentError, check
from blobstore.alloc import extent_map
from blobstore.alloc.leaves import LEAF_MASK, LEAF_SHIFT
from blobstore.testing.internals import core_of
from blobstore.units import MIB, BlobId

CLUSTER: Final = 4096
SIZES: Final = (1, 300, 511, 512, 513, 700, 1024, 1025, 1500, 2600)
STEPS: Final = 150
MOST_BLOBS: Final = 9
HARMLESS: Final = (24, 42)
"""Notes of a check on what an unclean end leaves, or a shrunken clone."""


class Life:
    """One store, and what each of its blobs holds: a number for each cluster."""

    def __init__(self, seed: int, path: Path) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.store = Blobstore.create(path, size=60 * MIB, cluster_size=CLUSTER, md_pages=300)
        self.content: dict[BlobId, list[int]] = {}
        self.read_only: set[BlobId] = set()
        self.open: dict[BlobId, Blob] = {}
        self.last_value = 0

    def step(self) -> None:
        """Do one thing, if the store allows it."""
        if not self.content:
            return self.create()
        calls: list[Callable[[BlobId], None]] = [
            self.write, self.write, self.read, self.read, self.read, self.unmap, self.resize,
            self.snapshot, self.clone, self.delete, self.close, self.look, self.inflate,
        ]  # fmt: skip
        chance = self.rng.random()
        if chance < 0.1 and len(self.content) < MOST_BLOBS:
            return self.create()
        if chance < 0.15:
            return self.reopen()
        try:
            return self.rng.choice(calls)(self.rng.choice(list(self.content)))
        except (BusyError, InvalidArgumentError):
            return None  # open, with clones, or neither thin nor a clone

    def blob(self, blob_id: BlobId) -> Blob:
        if blob_id not in self.open:
            self.open[blob_id] = self.store.open_blob(blob_id)
        return self.open[blob_id]

    def create(self) -> None:
        size, thin = self.rng.choice(SIZES), self.rng.random() < 0.8
        blob = self.store.create_blob(size * CLUSTER, thin=thin or size > 1200, extent_table=False)
        self.open[blob.id], self.content[blob.id] = blob, [0] * size

    def write(self, blob_id: BlobId) -> None:
        if blob_id in self.read_only:
            return
        content = self.content[blob_id]
        start, step = self.rng.randrange(len(content)), self.rng.choice([1, 1, 2, 7])
        for at in range(start, min(len(content), start + self.rng.choice([1, 3, 80])), step):
            self.last_value += 1
            self.blob(blob_id).write(self.last_value.to_bytes(8, "little") * 512, at * CLUSTER)
            content[at] = self.last_value

    def read(self, blob_id: BlobId) -> None:
        for _time in range(20):
            self.read_one(blob_id, self.rng.randrange(len(self.content[blob_id])))

    def read_one(self, blob_id: BlobId, at: int) -> None:
        found = int.from_bytes(self.blob(blob_id).read(8, at * CLUSTER), "little")
        assert found == self.content[blob_id][at]

    def unmap(self, blob_id: BlobId) -> None:
        info = self.blob(blob_id).info
        if blob_id in self.read_only or info.parent is not None or not info.thin:
            return
        content = self.content[blob_id]
        start = self.rng.randrange(len(content))
        count = min(len(content) - start, self.rng.choice([1, 5, 600]))
        self.blob(blob_id).unmap(start * CLUSTER, count * CLUSTER)
        content[start : start + count] = [0] * count

    def resize(self, blob_id: BlobId) -> None:
        blob, content, size = self.blob(blob_id), self.content[blob_id], self.rng.choice(SIZES)
        info = blob.info
        if blob_id in self.read_only or info.parent is not None or (not info.thin and size > 1200):
            return
        blob.resize(size * CLUSTER)
        self.content[blob_id] = content[:size] + [0] * (size - len(content))

    def snapshot(self, blob_id: BlobId) -> None:
        if blob_id not in self.read_only and len(self.content) < MOST_BLOBS:
            made = self.blob(blob_id).snapshot()
            self.open[made.id], self.content[made.id] = made, list(self.content[blob_id])
            self.read_only.add(made.id)

    def clone(self, blob_id: BlobId) -> None:
        if blob_id in self.read_only and len(self.content) < MOST_BLOBS:
            made = self.blob(blob_id).clone()
            self.open[made.id], self.content[made.id] = made, list(self.content[blob_id])

    def delete(self, blob_id: BlobId) -> None:
        self.close(blob_id)
        self.store.delete_blob(blob_id)
        del self.content[blob_id]
        self.read_only.discard(blob_id)

    def close(self, blob_id: BlobId) -> None:
        if blob_id in self.open:
            self.open.pop(blob_id).close()

    def inflate(self, blob_id: BlobId) -> None:
        if blob_id not in self.read_only:
            self.rng.choice([Blob.inflate, Blob.decouple])(self.blob(blob_id))

    def look(self, blob_id: BlobId) -> None:
        """Compare a blob's map, its leaves and its description with each other."""
        clusters = self.blob(blob_id)._state.clusters
        numbers = [clusters.get(at) for at in range(clusters.count)]
        runs = self.blob(blob_id).info.extents
        assert [first and first + n for first, count in runs for n in range(count)] == numbers
        assert clusters.allocated() == [number for number in numbers if number]
        start = self.rng.randrange(len(numbers))
        for allocated in (False, True):
            wanted = (at for at in range(start, len(numbers)) if bool(numbers[at]) == allocated)
            assert clusters.find(start, allocated=allocated) == next(wanted, None)
        for at in range(-(-len(numbers) // 512) * 512):
            leaf = clusters.leaves[at >> LEAF_SHIFT]
            there = leaf[at & LEAF_MASK] if at & LEAF_MASK < len(leaf) else 0
            assert there in ((0, numbers[at]) if at < len(numbers) else (0,))
        for info in self.store.list_blobs():
            assert info.error is None
            assert info.cluster_count == len(self.content[info.blob_id])

    def reopen(self) -> None:
        """Close the store, or leave it as it is now, and open it."""
        for blob_id in list(self.open):
            self.close(blob_id)
        state = core_of(self.store)
        assert not state.open_blobs
        assert not state.owned_clusters.any()
        left = self.path.with_suffix(".left")
        shutil.copy(self.path, left)
        self.store.unload()
        if self.rng.random() < 0.3:
            left.replace(self.path)
        self.store = Blobstore.open(self.path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_blobs_of_many_leaves_hold_what_was_written(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extent_map, "_KEPT_BYTES", (0, 5000, 1 << 20)[seed % 3])
    monkeypatch.setattr(extent_map, "_KEPT_BYTES_PER_RUN", 0)
    life = Life(seed, tmp_path / "store.img")
    for _step in range(STEPS):
        life.step()
    life.reopen()
    for blob_id, content in life.content.items():
        for at in range(len(content)):
            life.read_one(blob_id, at)
    life.reopen()
    life.store.unload()
    problems = [f for f in check(life.path).findings if f.invariant not in HARMLESS]
    assert problems == []
