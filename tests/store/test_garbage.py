"""A device full of 0xDD: no read ever returns a byte that was not written to that blob.

Unmapped ranges become garbage again, so that every cluster that changes hands
would show it.
"""

import random
from typing import Final

import pytest

from blobstore.blob.read import read_into
from blobstore.blob.resize import resize
from blobstore.blob.write import flush_blob, unmap, write, write_zeroes
from blobstore.errors import NoSpaceError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import load
from blobstore.metadata.store_state import StoreState
from blobstore.store.blobs import BlobOptions, ClearMethod, create_blob
from blobstore.store.delete import delete_blob
from blobstore.store.inflate import decouple, inflate
from blobstore.store.init import Clear, InitOptions, init_store
from blobstore.store.lifecycle import unload
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.store.snapshots import create_clone, create_snapshot
from blobstore.testing.alone import run_alone
from blobstore.testing.simulated_disk import GARBAGE, SimulatedDisk

CLUSTER: Final = 16384
MD_PAGES: Final = 48
CLUSTERS: Final = 40
OPERATIONS: Final = 3000
MOST_BLOBS: Final = 7
LAYOUTS: Final = [pytest.param(512, id="sector"), pytest.param(4096, id="compact")]


class Session:
    """Random operations on a store, next to what every blob must hold."""

    def __init__(self, *, atomic: int, clear: Clear, seed: int) -> None:
        self.rng = random.Random(seed)
        size = (4 + MD_PAGES) * 4096 + CLUSTERS * CLUSTER
        content = bytes([GARBAGE]) * size
        self.disk = SimulatedDisk(content, atomic_write_size=atomic, block_size=atomic)
        options = InitOptions(cluster_size=CLUSTER, md_pages=MD_PAGES, clear=clear)
        self.store: StoreState = run_alone(init_store(self.disk.traits, options), self.disk)
        self.content: dict[BlobState, bytearray] = {}
        self.done = 0
        self.refused = 0

    def run(self, count: int) -> None:
        names = ["write"] * 6 + ["zero", "unmap", "unmap", "resize", "sync", "create", "delete"]
        names += ["snapshot", "clone", "inflate", "decouple", "reopen"]
        for _ in range(count):
            name = "create" if not self.content else self.rng.choice(names)
            try:
                getattr(self, name)()
                self.done += 1
            except NoSpaceError:
                self.refused += 1
            self.disk.events.clear()
            self.check(self.rng.choice(list(self.content)) if self.content else None)

    def check(self, blob: BlobState | None) -> None:
        if blob is not None:
            expected = self.content[blob]
            found = bytearray(b"?") * len(expected)
            run_alone(read_into(self.store, blob, memoryview(found), 0), self.disk)
            assert first_difference(found, expected) is None

    def pick(self) -> BlobState:
        return self.rng.choice(list(self.content))

    def writable(self) -> BlobState | None:
        return self.rng.choice([b for b in self.content if not b.data_read_only] or [None])

    def span(self, blob: BlobState) -> tuple[int, int]:
        """Return (offset, length) of any part, to the byte or of whole clusters."""
        size = len(self.content[blob])
        if not size:
            return 0, 0
        unit = self.rng.choice([1, 512, CLUSTER])
        start = self.rng.randrange(size) // unit * unit
        length = min(size - start, unit * self.rng.randint(1, max(1, 2 * CLUSTER // unit)))
        return start, length

    # The operations

    def create(self) -> None:
        if len(self.content) >= MOST_BLOBS:
            return
        options = BlobOptions(
            cluster_count=self.rng.randrange(8),
            thin=self.rng.random() < 0.6,
            extent_table=self.rng.random() < 0.6,
            clear_method=self.rng.choice(list(ClearMethod)),
        )
        blob_id = run_alone(create_blob(self.store, options), self.disk)
        blob = run_alone(open_blob(self.store, blob_id), self.disk)
        self.content[blob] = bytearray(options.cluster_count * CLUSTER)

    def delete(self) -> None:
        blob = self.pick()
        if self.store.clones.of(blob.blob_id):
            return
        run_alone(close_blob(self.store, blob), self.disk)
        del self.content[blob]
        run_alone(delete_blob(self.store, blob.blob_id), self.disk)

    def write(self) -> None:
        blob = self.writable()
        if blob is not None:
            offset, length = self.span(blob)
            data = self.rng.randbytes(length).replace(bytes([GARBAGE]), b"!")
            run_alone(write(self.store, blob, memoryview(data), offset), self.disk)
            self.content[blob][offset : offset + length] = data

    def zero(self) -> None:
        blob = self.writable()
        if blob is not None:
            offset, length = self.span(blob)
            run_alone(write_zeroes(self.store, blob, offset, length), self.disk)
            self.content[blob][offset : offset + length] = bytes(length)

    def unmap(self) -> None:
        blob = self.writable()
        if blob is not None:
            offset, length = self.span(blob)
            own = self.own_bytes(blob, offset, length)
            run_alone(unmap(self.store, blob, offset, length), self.disk)
            for start, end in own:
                self.content[blob][start:end] = bytes(end - start)

    def own_bytes(self, blob: BlobState, offset: int, length: int) -> list[tuple[int, int]]:
        """Return the parts of a range that the blob holds itself: only they become zeroes."""
        parts = []
        at = offset
        while at < offset + length:
            end = min(offset + length, (at // CLUSTER + 1) * CLUSTER)
            if blob.clusters.get(at // CLUSTER):
                parts.append((at, end))
            at = end
        return parts

    def resize(self) -> None:
        blob = self.writable()
        if blob is not None and not self.is_related(blob):
            count = self.rng.randrange(10)
            run_alone(resize(self.store, blob, count), self.disk)
            content = self.content[blob]
            del content[count * CLUSTER :]
            content.extend(bytes(count * CLUSTER - len(content)))

    def is_related(self, blob: BlobState) -> bool:
        """Tell whether growing could show a parent's content instead of zeroes."""
        return blob.parent is not None

    def sync(self) -> None:
        run_alone(flush_blob(self.store, self.pick()), self.disk)

    def snapshot(self) -> None:
        blob = self.writable()
        if blob is not None and len(self.content) < MOST_BLOBS:
            snapshot_id = run_alone(create_snapshot(self.store, blob, {}), self.disk)
            snapshot = run_alone(open_blob(self.store, snapshot_id), self.disk)
            self.content[snapshot] = bytearray(self.content[blob])

    def clone(self) -> None:
        blob = self.pick()
        if blob.data_read_only and len(self.content) < MOST_BLOBS:
            clone_id = run_alone(create_clone(self.store, blob.blob_id, {}), self.disk)
            clone = run_alone(open_blob(self.store, clone_id), self.disk)
            self.content[clone] = bytearray(self.content[blob])

    def inflate(self) -> None:
        run_alone(inflate(self.store, self.pick()), self.disk)

    def decouple(self) -> None:
        blob = self.pick()
        if blob.parent is not None:
            run_alone(decouple(self.store, blob), self.disk)

    def reopen(self) -> None:
        """Unload and load again; every other time without unloading."""
        by_id = {blob.blob_id: content for blob, content in self.content.items()}
        if self.rng.random() < 0.5:
            for blob in self.content:
                run_alone(close_blob(self.store, blob), self.disk)
            run_alone(unload(self.store), self.disk)
        else:
            for blob in self.content:
                run_alone(flush_blob(self.store, blob), self.disk)
        self.store = run_alone(load(self.disk.traits), self.disk)
        self.content = {
            run_alone(open_blob(self.store, blob_id), self.disk): content
            for blob_id, content in by_id.items()
        }


def first_difference(found: bytearray, expected: bytearray) -> tuple[int, int, int] | None:
    """Return (offset, byte found, byte expected) where they differ first, or None."""
    if found == expected:
        return None
    at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    return at, found[at], expected[at]


@pytest.mark.slow
@pytest.mark.parametrize("atomic", LAYOUTS)
@pytest.mark.parametrize("clear", [Clear.NONE, Clear.UNMAP])
def test_no_read_returns_a_byte_that_was_not_written_to_that_blob(
    clear: Clear, atomic: int
) -> None:
    session = Session(atomic=atomic, clear=clear, seed=5)
    session.run(OPERATIONS)
    assert session.done > session.refused
    for blob in session.content:
        session.check(blob)
        assert bytes([GARBAGE]) not in session.content[blob]
