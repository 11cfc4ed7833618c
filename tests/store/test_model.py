"""The public calls in any order, against byte arrays in a dictionary.

Between calls the store is closed and opened, left without being closed, or
loses its power: what was not flushed is then there in any part.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blobstore import Blob, Blobstore, BlobstoreError, NoSpaceError, NotFoundError, ReadOnlyError
from blobstore.device.base import Device
from blobstore.operations import Buffer
from blobstore.testing.expectation import (
    BLOCK,
    ZERO_BLOCK,
    Expectation,
    ExpectedBlob,
    FoundBlob,
    Meta,
)
from blobstore.testing.inspect_store import load_checked
from blobstore.testing.internals import core_of
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.units import BlobId
from tests.store.page_accounting import check_claims, check_promises

CLUSTER: Final = 4096
MD_PAGES: Final = 24
FEW_PAGES: Final = (7, 12)
"""With so few metadata pages promises and claims meet the end of the region in most steps."""
CLUSTERS: Final = 30
SIZE: Final = (4 + MD_PAGES + CLUSTERS) * CLUSTER
BLOCKS_PER_CLUSTER: Final = CLUSTER // BLOCK
MOST_VALUES: Final = 64


class PowerlessDevice(Device):
    """Memory that remembers which sectors were written since the last flush, in order."""

    def __init__(self, content: bytes, atomic: int) -> None:
        super().__init__(
            name="powerless",
            size_bytes=len(content),
            block_size=512,
            atomic_write_size=atomic,
            unmap_zeroes=True,
        )
        self.content = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        return bytes(self.content[offset : offset + length])

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for view in buffers:
            view[:] = self.read(offset, len(view))
            offset += len(view)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(bytes(buffer) for buffer in buffers)
        self.check_write(offset, len(data))
        self.content[offset : offset + len(data)] = data
        unit = self.atomic_write_size
        at = 0
        while at < len(data):
            step = unit - (offset + at) % unit
            self.pending.append((offset + at, data[at : at + step]))
            at += step

    def write_zeroes(self, offset: int, length: int) -> None:
        self.write(offset, [bytes(length)])

    def unmap(self, offset: int, length: int) -> None:
        self.write(offset, [bytes(length)])

    def flush(self) -> None:
        self.check_open()
        self.durable[:] = self.content
        self.pending.clear()

    def after_a_power_cut(self, rng: random.Random) -> bytes:
        """Return what is there when some of the unflushed sectors are lost."""
        content = bytearray(self.durable)
        chance = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for offset, data in self.pending:
            if rng.random() < chance:
                content[offset : offset + len(data)] = data
        return bytes(content)


PICK: Final = st.integers(0, 7)
OFFSET: Final = st.one_of(
    st.integers(0, 8 * CLUSTER),
    st.integers(0, 8).map(lambda index: index * CLUSTER),
    st.integers(0, 64).map(lambda block: block * BLOCK),
)
LENGTH: Final = st.one_of(
    st.integers(0, 3 * CLUSTER),
    st.sampled_from([1, BLOCK, CLUSTER, 2 * CLUSTER]),
)


class Model(RuleBasedStateMachine):
    """One store, its handles, and what every blob must hold."""

    @initialize(
        atomic=st.sampled_from([512, 4096]),
        md_pages=st.sampled_from([*FEW_PAGES, MD_PAGES]),
        seed=st.integers(0, 1 << 32),
    )
    def make(self, atomic: int, md_pages: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.device = PowerlessDevice(bytes(SIZE), atomic)
        self.store = Blobstore.create(self.device, cluster_size=CLUSTER, md_pages=md_pages)
        self.cluster_count = self.store.info.data_clusters
        self.expected = Expectation(sizes={SIZE})
        self.handles: list[Blob] = []
        self.types = {bytes(16)}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.reopen_clean()

    # Helpers

    def pick(self, at: int) -> tuple[Blob, ExpectedBlob]:
        """Return an open handle and what its blob must hold."""
        ids = list(self.expected.blobs)
        blob_id = BlobId(ids[at % len(ids)])
        handles = [handle for handle in self.handles if handle.id == blob_id]
        if not handles:
            handles = [self.store.open_blob(blob_id)]
            self.handles += handles
        return self.rng.choice(handles), self.expected.blobs[blob_id]

    @staticmethod
    def content(expected: ExpectedBlob) -> bytes:
        return b"".join(expected.current)

    def clipped(self, expected: ExpectedBlob, offset: int, length: int) -> tuple[int, int]:
        size = len(expected.current) * BLOCK
        offset = min(offset, size)
        return offset, min(length, size - offset)

    def change(self, expected: ExpectedBlob, offset: int, data: bytes) -> None:
        """Note that any part of this write may be missing after a power cut."""
        for at in range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)):
            first = max(offset, at * BLOCK)
            end = min(offset + len(data), (at + 1) * BLOCK)
            part = data[first - offset : end - offset]
            inside = slice(first - at * BLOCK, end - at * BLOCK)
            values = {_patched(value, inside, part) for value in expected.blocks[at]}
            expected.blocks[at] |= values
            expected.current[at] = _patched(expected.current[at], inside, part)

    def change_meta(self, expected: ExpectedBlob, **changes: Any) -> None:
        meta = replace(expected.meta, **changes)
        expected.change(meta, blocks_per_cluster=BLOCKS_PER_CLUSTER)

    def is_too_uncertain(self) -> bool:
        blobs = self.expected.blobs.values()
        return any(len(values) > MOST_VALUES for blob in blobs for values in blob.blocks)

    def has_blobs(self) -> bool:
        return bool(self.expected.blobs)

    # Rules

    @precondition(lambda self: len(self.expected.blobs) < 6)
    @rule(
        count=st.integers(0, 8),
        thin=st.booleans(),
        table=st.booleans(),
        xattr_size=st.sampled_from([0, 0, 5, 450, 3000]),
    )
    def create_blob(self, count: int, thin: bool, table: bool, xattr_size: int) -> None:
        xattrs = {"first": b"f" * xattr_size} if xattr_size else {}
        try:
            handle = self.store.create_blob(
                count * CLUSTER, thin=thin, extent_table=table, xattrs=xattrs
            )
        except NoSpaceError:
            return
        self.handles.append(handle)
        assert handle.id not in self.expected.blobs
        expected = ExpectedBlob([Meta(0)])
        self.expected.blobs[handle.id] = expected
        self.change_meta(expected, cluster_count=count, xattrs=tuple(xattrs.items()))
        expected.flushed()

    @precondition(has_blobs)
    @rule(at=PICK)
    def open_again(self, at: int) -> None:
        self.handles.append(self.store.open_blob(self.pick(at)[0].id))

    @precondition(has_blobs)
    @rule(at=PICK)
    def close_handle(self, at: int) -> None:
        handle, expected = self.pick(at)
        is_last = sum(other.id == handle.id for other in self.handles) == 1
        was_dirty = core_of(self.store).open_blobs[handle.id].is_dirty
        handle.close()
        self.handles.remove(handle)
        assert handle.closed
        if is_last and was_dirty:
            expected.flushed()

    @precondition(has_blobs)
    @rule(at=PICK, offset=OFFSET, length=LENGTH)
    def read(self, at: int, offset: int, length: int) -> None:
        handle, expected = self.pick(at)
        offset, length = self.clipped(expected, offset, length)
        assert handle.read(length, offset) == self.content(expected)[offset : offset + length]
        with pytest.raises(BlobstoreError):
            handle.read(handle.size - offset + 1, offset)

    @precondition(has_blobs)
    @rule(at=PICK, offset=OFFSET, length=LENGTH, parts=st.integers(1, 3))
    def write(self, at: int, offset: int, length: int, parts: int) -> None:
        handle, expected = self.pick(at)
        offset, length = self.clipped(expected, offset, length)
        data = self.rng.randbytes(length)
        cut = length // parts
        pieces = [data[n * cut : (n + 1) * cut if n < parts - 1 else None] for n in range(parts)]
        try:
            done = handle.write(data, offset) if parts == 1 else handle.writev(pieces, offset)
        except (NoSpaceError, ReadOnlyError) as error:
            self.refused(error, handle, expected)
            return
        assert done == length
        self.change(expected, offset, data)

    @precondition(has_blobs)
    @rule(at=PICK, offset=OFFSET, length=LENGTH, is_unmap=st.booleans())
    def clear(self, at: int, offset: int, length: int, is_unmap: bool) -> None:
        handle, expected = self.pick(at)
        offset, length = self.clipped(expected, offset, length)
        try:
            (handle.unmap if is_unmap else handle.write_zeroes)(offset, length)
        except (NoSpaceError, ReadOnlyError) as error:
            self.refused(error, handle, expected, takes_space=not is_unmap)
            return
        self.change(expected, offset, bytes(length))

    def refused(
        self,
        error: BlobstoreError,
        handle: Blob,
        expected: ExpectedBlob,
        *,
        takes_space: bool = True,
    ) -> None:
        """A refused call changed nothing."""
        assert takes_space or not isinstance(error, NoSpaceError)
        assert isinstance(error, ReadOnlyError) == expected.meta.read_only
        assert handle.read(handle.size) == self.content(expected)

    @precondition(has_blobs)
    @rule(at=PICK, count=st.integers(0, 10))
    def resize(self, at: int, count: int) -> None:
        handle, expected = self.pick(at)
        try:
            handle.resize(count * CLUSTER)
        except (NoSpaceError, ReadOnlyError) as error:
            self.refused(error, handle, expected)
            return
        assert handle.size == count * CLUSTER
        self.change_meta(expected, cluster_count=count)

    @precondition(has_blobs)
    @rule(
        at=PICK,
        name=st.sampled_from(["k", "name", "ключ"]),
        size=st.sampled_from([0, 1, 30, 400, 480, 3960]),
    )
    def set_xattr(self, at: int, name: str, size: int) -> None:
        handle, expected = self.pick(at)
        value = self.rng.randbytes(size)
        try:
            handle.xattrs[name] = value
        except (NoSpaceError, ReadOnlyError) as error:
            self.refused(error, handle, expected)
            return
        xattrs = dict(expected.meta.xattrs) | {name: value}
        self.change_meta(expected, xattrs=tuple(xattrs.items()))

    @precondition(has_blobs)
    @rule(at=PICK)
    def remove_xattr(self, at: int) -> None:
        handle, expected = self.pick(at)
        xattrs = dict(expected.meta.xattrs)
        assert dict(handle.xattrs) == xattrs
        if not xattrs:
            with pytest.raises((NotFoundError, ReadOnlyError)):
                handle.remove_xattr("k")
            return
        name = self.rng.choice(list(xattrs))
        try:
            del handle.xattrs[name]
        except (NoSpaceError, ReadOnlyError) as error:
            self.refused(error, handle, expected)
            return
        del xattrs[name]
        self.change_meta(expected, xattrs=tuple(xattrs.items()))

    @precondition(has_blobs)
    @rule(at=PICK, chance=st.integers(0, 3))
    def set_read_only(self, at: int, chance: int) -> None:
        handle, expected = self.pick(at)
        if chance:
            return
        try:
            handle.set_read_only()
        except NoSpaceError as error:
            self.refused(error, handle, expected)
            return
        handle.sync_md()
        self.change_meta(expected, read_only=True)
        expected.flushed()

    @precondition(has_blobs)
    @rule(at=PICK)
    def flush_blob(self, at: int) -> None:
        handle, expected = self.pick(at)
        handle.flush()
        expected.flushed()

    @rule()
    def flush_store(self) -> None:
        self.store.flush()
        self.flush_all_that_is_open()

    def flush_all_that_is_open(self) -> None:
        """Note a flush of the store; of a blob that nobody has open everything was durable."""
        for blob_id in core_of(self.store).open_blobs:
            self.expected.blobs[blob_id].flushed()

    @precondition(has_blobs)
    @rule(at=PICK)
    def delete_blob(self, at: int) -> None:
        handle, _expected = self.pick(at)
        with pytest.raises(BlobstoreError):
            self.store.delete_blob(handle.id)
        for other in [other for other in self.handles if other.id == handle.id]:
            other.close()
            self.handles.remove(other)
        self.store.delete_blob(handle.id)
        del self.expected.blobs[handle.id]
        if handle.id in self.expected.super_blobs:
            self.expected.super_blobs = {None}

    @precondition(has_blobs)
    @rule(at=PICK)
    def set_super_blob(self, at: int) -> None:
        blob_id = self.pick(at)[0].id
        self.store.set_super_blob(blob_id)
        assert self.store.super_blob == blob_id
        self.expected.super_blobs = {blob_id}

    @rule(bstype=st.sampled_from([b"one", b"another"]))
    def set_type(self, bstype: bytes) -> None:
        self.store.set_type(bstype)
        self.types.add(bstype.ljust(16, b"\0"))

    # Ends and beginnings

    @rule()
    def reopen_clean(self) -> None:
        self.store.close()
        self.expected.flushed()
        self.start(bytes(self.device.content))
        assert not core_of(self.store).was_recovered

    @rule()
    def reopen_without_closing(self) -> None:
        self.start(bytes(self.device.content))

    @rule(seed=st.integers(0, 1 << 32))
    def cut_the_power(self, seed: int) -> None:
        self.start(self.device.after_a_power_cut(random.Random(seed)))

    @precondition(has_blobs)
    @rule(at=PICK, offset=OFFSET, length=LENGTH, seed=st.integers(0, 1 << 32))
    def write_flush_write_and_cut_the_power(
        self, at: int, offset: int, length: int, seed: int
    ) -> None:
        self.write(at, offset, length, 1)
        self.flush_blob(at)
        self.write(at, offset, length, 2)
        self.flush_blob(at)
        self.write(at + 1, offset, length, 1)
        self.cut_the_power(seed)

    def start(self, content: bytes) -> None:
        """Look at what is on the device, compare it, and go on from there."""
        atomic = self.device.atomic_write_size
        found = load_checked(SimulatedDisk(content, atomic_write_size=atomic, unmap_zeroes=True))
        assert found is not None
        assert self.expected.problem(found[1]) is None
        self.expected = Expectation(
            blobs={blob_id: _as_expected(blob) for blob_id, blob in found[1].blobs.items()},
            super_blobs={found[1].super_blob},
            sizes={SIZE},
        )
        self.handles.clear()
        self.device = PowerlessDevice(content, atomic)
        self.store = Blobstore.open(self.device)
        assert self.store.info.bstype in self.types
        assert self.store.blob_ids() == sorted(self.expected.blobs)

    # Invariants

    @invariant()
    def what_is_counted_adds_up(self) -> None:
        if not hasattr(self, "store"):
            return
        if self.is_too_uncertain():
            self.flush_store()
        assert core_of(self.store).poison is None
        assert self.store.info.blob_count == len(self.expected.blobs)
        assert 0 <= self.store.free_clusters <= self.cluster_count
        for handle in self.handles:
            self.check_extents(handle)

    def check_extents(self, handle: Blob) -> None:
        info = handle.info
        extents = handle.extents()
        assert sum(length for _offset, length, _allocated in extents) == handle.size == info.size
        assert [offset for offset, _length, _allocated in extents] == [
            sum(length for _offset, length, _allocated in extents[:at])
            for at in range(len(extents))
        ]
        allocated = sum(length for _offset, length, is_there in extents if is_there)
        assert allocated == info.allocated_clusters * CLUSTER
        assert info.thin or allocated == handle.size
        for offset, _length, is_there in extents:
            there, missing = handle.next_allocated(offset), handle.next_unallocated(offset)
            assert (there == offset, missing == offset) == (is_there, not is_there)

    @invariant()
    def pages_are_there_for_all_that_is_promised(self) -> None:
        if not hasattr(self, "store"):
            return
        core = core_of(self.store)
        check_promises(core)
        pages = [
            page
            for info in self.store.list_blobs()
            for page in (*info.metadata_pages, *filter(None, info.extent_pages))
        ]
        assert len(pages) == len(set(pages))
        check_claims(core, set(pages))

    @invariant()
    def clusters_are_owned_or_free(self) -> None:
        if not hasattr(self, "store") or self.rng.random() > 0.03:
            return
        self.flush_store()
        owned = 0
        for blob_id in self.store.blob_ids():
            with self.store.open_blob(blob_id) as blob:
                owned += blob.info.allocated_clusters
        assert owned + self.store.free_clusters == self.cluster_count


def _patched(block: bytes, inside: slice, data: bytes) -> bytes:
    return block[: inside.start] + data + block[inside.stop :]


def _as_expected(found: FoundBlob) -> ExpectedBlob:
    count = len(found.content) // BLOCK
    blocks = [found.content[at * BLOCK : (at + 1) * BLOCK] for at in range(count)]
    assert all(len(block) == len(ZERO_BLOCK) for block in blocks)
    return ExpectedBlob([found.meta], [{block} for block in blocks], list(blocks))


TestModel = pytest.mark.slow(Model.TestCase)
TestModel.settings = settings(max_examples=120, stateful_step_count=60)
