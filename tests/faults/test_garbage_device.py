"""A device full of 0xDD, through the public interface: nobody reads what was not written there.

Unmapped ranges become 0xDD again. What is written never contains that byte, so
a single one in a read is somebody else's, or nobody's. After every operation
all blobs are compared, byte for byte, with what they must hold; after a stop
that nobody flushed, with what they may hold.
"""

import random
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest

from blobstore import Blob, Blobstore, BlobstoreError, MemoryDevice, NoSpaceError
from blobstore.store.blobs import ClearMethod
from blobstore.testing.internals import abandon, core_of
from blobstore.testing.simulated_disk import GARBAGE

CLUSTER: Final = 8192
MD_PAGES: Final = 40
SIZE: Final = (4 + MD_PAGES) * 4096 + 32 * CLUSTER
OPERATIONS: Final = 1250
SEEDS: Final = range(2)
MOST_BLOBS: Final = 7
DD: Final = bytes([GARBAGE])
_CHANCES: Final[dict[str, int]] = {
    "write": 12, "zero": 4, "unmap": 5, "resize": 4, "flush": 3, "create": 4, "delete": 5,
    "snapshot": 3, "clone": 2, "inflate": 1, "decouple": 1, "set_parent": 1, "reopen_clean": 1,
    "reopen_dirty": 1, "stop": 1,
}  # fmt: skip


class GarbageDevice(MemoryDevice):
    """Memory that holds 0xDD at first, and again after an unmap."""

    def __init__(self, atomic_write_size: int) -> None:
        super().__init__(SIZE, fill=GARBAGE, atomic_write_size=atomic_write_size)
        self.unmap_zeroes = False

    def unmap(self, offset: int, length: int) -> None:
        self.write(offset, [DD * length])

    def close(self) -> None:
        """Stay as it is: the next store is opened on it."""


@dataclass(slots=True)
class Expected:
    """What a blob holds, and every content that it had since it was last durable."""

    content: bytearray
    since: list[bytes]

    def flushed(self) -> None:
        self.since = [bytes(self.content)]

    def changed(self) -> None:
        self.since.append(bytes(self.content))

    def may_be(self, found: bytes) -> bool:
        """Tell whether every byte is one that was there at some time since the last flush."""
        if len(found) not in {len(version) for version in self.since}:
            return False
        may_be = np.zeros(len(found), dtype=bool)
        for version in self.since:
            padded = version[: len(found)].ljust(len(found), b"\0")
            may_be |= np.frombuffer(padded, np.uint8) == np.frombuffer(found, np.uint8)
        return bool(may_be.all())


class Session:
    """Random calls on one store, next to what every blob must hold."""

    def __init__(self, *, atomic: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.device = GarbageDevice(atomic)
        self.store = Blobstore.create(
            self.device,
            cluster_size=CLUSTER,
            md_pages=MD_PAGES,
            clear=self.rng.choice(["none", "unmap"]),
            overwrite=True,
        )
        self.blobs: dict[Blob, Expected] = {}
        self.refused = 0
        self.recovered = 0

    def run(self, count: int) -> None:
        names = self.rng.choices(list(_CHANCES), weights=list(_CHANCES.values()), k=count)
        for number, name in enumerate(names):
            chosen = name if self.blobs else "create"
            try:
                getattr(self, chosen)()
            except NoSpaceError:
                self.refused += 1
            self.check(f"operation {number}, {chosen}")

    def check(self, after: str) -> None:
        for blob, expected in self.blobs.items():
            found = blob.read(blob.size)
            assert DD not in found, (after, blob.id, found.index(DD))
            assert found == expected.content, (after, blob.id)

    # Helpers

    def pick(self) -> Blob:
        return self.rng.choice(list(self.blobs))

    def writable(self) -> Blob | None:
        return self.rng.choice([b for b in self.blobs if not b.info.read_only] or [None])

    def span(self, blob: Blob) -> tuple[int, int]:
        """Return (offset, length) of any part, to the byte or of whole clusters."""
        if not blob.size:
            return 0, 0
        unit = self.rng.choice([1, 512, CLUSTER])
        start = self.rng.randrange(blob.size) // unit * unit
        length = min(blob.size - start, unit * self.rng.randint(1, max(1, 2 * CLUSTER // unit)))
        return start, length

    def put(self, blob: Blob, offset: int, data: bytes) -> None:
        expected = self.blobs[blob]
        expected.content[offset : offset + len(data)] = data
        expected.changed()

    def owns(self, blob: Blob, offset: int) -> bool:
        return blob.next_allocated(offset) == offset

    def has_room(self) -> bool:
        return len(self.blobs) < MOST_BLOBS

    def take(self, blob: Blob, content: bytes) -> None:
        self.blobs[blob] = Expected(bytearray(content), [bytes(content)])

    # Data

    def write(self) -> None:
        blob = self.writable()
        if blob is not None:
            offset, length = self.span(blob)
            data = self.rng.randbytes(length).replace(DD, b"!")
            blob.write(data, offset)
            self.put(blob, offset, data)

    def zero(self) -> None:
        blob = self.writable()
        if blob is not None:
            offset, length = self.span(blob)
            blob.write_zeroes(offset, length)
            self.put(blob, offset, bytes(length))

    def unmap(self) -> None:
        """Unmap a range: what the blob holds itself becomes zeroes, the rest stays the parent's."""
        blob = self.writable()
        if blob is None:
            return
        offset, length = self.span(blob)
        end = offset + length
        starts = [offset, *range((offset // CLUSTER + 1) * CLUSTER, end, CLUSTER)]
        own = [at for at in starts if self.owns(blob, at)]
        blob.unmap(offset, length)
        for at in own:
            self.put(blob, at, bytes(min(end, (at // CLUSTER + 1) * CLUSTER) - at))

    def resize(self) -> None:
        """Resize; where a clone grows, its parent may show through again."""
        blob = self.writable()
        if blob is None:
            return
        count = self.rng.randrange(9)
        before = blob.size
        blob.resize(count * CLUSTER)
        expected = self.blobs[blob]
        del expected.content[count * CLUSTER :]
        shown = self.shown_by_parent(blob)
        added = shown[before : blob.size]
        expected.content.extend(added.ljust(blob.size - len(expected.content), b"\0"))
        expected.changed()

    def shown_by_parent(self, blob: Blob) -> bytes:
        parent = blob.info.parent
        return next((bytes(e.content) for b, e in self.blobs.items() if b.id == parent), b"")

    def flush(self) -> None:
        blob = self.pick()
        blob.flush()
        self.blobs[blob].flushed()

    # Blobs

    def create(self) -> None:
        if self.has_room():
            count = self.rng.randrange(8)
            blob = self.store.create_blob(
                count * CLUSTER,
                thin=self.rng.random() < 0.6,
                extent_table=self.rng.random() < 0.5,
                clear_method=self.rng.choice(list(ClearMethod)),
            )
            self.take(blob, bytes(count * CLUSTER))

    def delete(self) -> None:
        """Delete a blob; a snapshot with one clone is merged into it."""
        blob = self.pick()
        if len(blob.info.clones) > 1:
            return
        expected = self.blobs.pop(blob)
        blob.close()
        try:
            self.store.delete_blob(blob.id)
        except NoSpaceError:
            expected.flushed()
            self.blobs[self.store.open_blob(blob.id)] = expected
            raise

    def snapshot(self) -> None:
        blob = self.writable()
        if blob is not None and self.has_room():
            snapshot = blob.snapshot()
            self.blobs[blob].flushed()
            self.take(snapshot, bytes(self.blobs[blob].content))

    def clone(self) -> None:
        blob = self.pick()
        if blob.info.read_only and self.has_room():
            self.take(blob.clone(), bytes(self.blobs[blob].content))

    def inflate(self) -> None:
        self.pick().inflate()

    def decouple(self) -> None:
        blob = self.pick()
        if blob.info.parent is not None:
            blob.decouple()

    def set_parent(self) -> None:
        blob, parent = self.pick(), self.pick()
        own = {at for at in range(0, blob.size, CLUSTER) if self.owns(blob, at)}
        try:
            blob.set_parent(parent.id)
        except BlobstoreError:
            return
        expected = self.blobs[blob]
        for at in set(range(0, blob.size, CLUSTER)) - own:
            expected.content[at : at + CLUSTER] = self.blobs[parent].content[at : at + CLUSTER]
        expected.flushed()

    # Ends and beginnings

    def reopen_clean(self) -> None:
        self.store.close()
        self.go_on()

    def reopen_dirty(self) -> None:
        self.store.flush()
        abandon(self.store)
        for expected in self.blobs.values():
            expected.flushed()
        self.go_on()

    def stop(self) -> None:
        """End without a flush, and go on with what is there; every byte of it must be possible."""
        abandon(self.store)
        before = {blob.id: expected for blob, expected in self.blobs.items()}
        self.go_on()
        for blob in self.blobs:
            found = blob.read(blob.size)
            assert DD not in found
            assert before[blob.id].may_be(found)
            self.take(blob, found)

    def go_on(self) -> None:
        """Open the store again, and all that was in it."""
        self.store = Blobstore.open(self.device)
        self.recovered += core_of(self.store).was_recovered
        assert self.store.blob_ids() == sorted(blob.id for blob in self.blobs)
        self.blobs = {self.store.open_blob(b.id): expected for b, expected in self.blobs.items()}


@pytest.mark.parametrize("atomic", [512, 4096])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_read_returns_a_byte_that_was_not_written_to_that_blob(seed: int, atomic: int) -> None:
    session = Session(atomic=atomic, seed=seed)
    session.run(OPERATIONS)
    assert session.refused < OPERATIONS // 3
    assert session.recovered > OPERATIONS // 60
