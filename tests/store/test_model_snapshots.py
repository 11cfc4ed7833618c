"""The public calls in any order, with snapshots, clones and all that changes a blob's parent."""

from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from blobstore import Blob, BlobstoreError, BusyError, InvalidArgumentError, NoSpaceError
from blobstore.testing.expectation import BLOCK, ExpectedBlob
from tests.store.test_model import (
    BLOCKS_PER_CLUSTER,
    CLUSTER,
    LENGTH,
    OFFSET,
    PICK,
    Model,
)

T = TypeVar("T")

MOST_BLOBS = 9


def attempt(call: Callable[[], T]) -> T | BlobstoreError:
    """Return what the call returns, or the error with which it was refused."""
    try:
        return call()
    except BlobstoreError as error:
        return error


class SnapshotModel(Model):
    """One store with chains of snapshots; a clone shows its parents where it has nothing."""

    def has_blobs(self) -> bool:
        return bool(self.expected.blobs)

    def has_room(self) -> bool:
        return 0 < len(self.expected.blobs) < MOST_BLOBS

    def clones_of(self, blob_id: int) -> list[ExpectedBlob]:
        return [blob for blob in self.expected.blobs.values() if blob.meta.parent == blob_id]

    def derive(self, handle: Blob, source: ExpectedBlob, *, read_only: bool) -> None:
        """Expect a new blob that shows what the source shows now."""
        meta = source.meta.__class__(source.meta.cluster_count, (), read_only, source.meta.parent)
        blocks = list(source.current)
        self.expected.blobs[handle.id] = ExpectedBlob([meta], [{b} for b in blocks], blocks)
        self.handles.append(handle)

    def move(self, expected: ExpectedBlob, parent: int | None) -> None:
        self.change_meta(expected, parent=parent)
        expected.flushed()

    @precondition(has_room)
    @rule(at=PICK)
    def snapshot(self, at: int) -> None:
        handle, expected = self.pick(at)
        snapshot = attempt(handle.snapshot)
        if isinstance(snapshot, BlobstoreError):
            assert isinstance(
                snapshot, InvalidArgumentError if expected.meta.read_only else NoSpaceError
            )
            return
        expected.flushed()
        self.derive(snapshot, expected, read_only=True)
        self.move(expected, snapshot.id)

    @precondition(has_room)
    @rule(at=PICK)
    def clone(self, at: int) -> None:
        handle, expected = self.pick(at)
        clone = attempt(handle.clone)
        if isinstance(clone, BlobstoreError):
            assert isinstance(
                clone, NoSpaceError if expected.meta.read_only else InvalidArgumentError
            )
            return
        self.derive(clone, expected, read_only=False)
        self.move(self.expected.blobs[clone.id], handle.id)

    @precondition(has_blobs)
    @rule(at=PICK)
    def inflate(self, at: int) -> None:
        handle, expected = self.pick(at)
        try:
            handle.inflate()
        except NoSpaceError:
            assert handle.read(handle.size) == self.content(expected)
            return
        assert not handle.info.thin
        self.move(expected, None)

    @precondition(has_blobs)
    @rule(at=PICK)
    def decouple(self, at: int) -> None:
        handle, expected = self.pick(at)
        parent = expected.meta.parent
        error = attempt(handle.decouple)
        if isinstance(error, BlobstoreError):
            assert isinstance(error, InvalidArgumentError if parent is None else NoSpaceError)
            return
        assert parent is not None
        self.move(expected, self.expected.blobs[parent].meta.parent)

    @precondition(has_blobs)
    @rule(at=PICK, to=PICK)
    def set_parent(self, at: int, to: int) -> None:
        handle, expected = self.pick(at)
        parent, source = self.pick(to)
        own = {index for index in range(handle.size // CLUSTER) if self.owns(handle, index)}
        try:
            handle.set_parent(parent.id)
        except BlobstoreError:
            assert handle.read(handle.size) == self.content(expected)
            return
        assert source.meta.read_only
        for block, value in enumerate(source.current):
            if block // BLOCKS_PER_CLUSTER not in own:
                expected.write(block, value)
        self.move(expected, parent.id)

    @precondition(has_blobs)
    @rule(at=PICK, to=PICK)
    def rollback(self, at: int, to: int) -> None:
        handle, expected = self.pick(at)
        snapshot, source = self.pick(to)
        result = attempt(lambda: handle.rollback(snapshot.id))
        if isinstance(result, BlobstoreError):
            assert handle.read(handle.size) == self.content(expected)
            return
        assert source.meta.read_only
        self.change_meta(expected, cluster_count=source.meta.cluster_count, parent=snapshot.id)
        for block, value in enumerate(source.current):
            expected.write(block, value)
        expected.flushed()

    @staticmethod
    def owns(handle: Blob, index: int) -> bool:
        return handle.next_allocated(index * CLUSTER) == index * CLUSTER

    @precondition(has_blobs)
    @rule(at=PICK, offset=OFFSET, length=LENGTH, is_unmap=st.booleans())
    def clear(self, at: int, offset: int, length: int, is_unmap: bool) -> None:
        handle, expected = self.pick(at)
        offset, length = self.clipped(expected, offset, length)
        parts = [(offset, length)]
        if is_unmap and expected.meta.parent is not None:
            parts = [
                (max(offset, first), min(offset + length, first + CLUSTER) - max(offset, first))
                for first in range(offset - offset % CLUSTER, offset + length, CLUSTER)
                if self.owns(handle, first // CLUSTER)
            ]
        try:
            (handle.unmap if is_unmap else handle.write_zeroes)(offset, length)
        except BlobstoreError as error:
            self.refused(error, handle, expected, takes_space=not is_unmap)
            return
        for first, count in parts:
            self.change(expected, first, bytes(count))

    @precondition(has_blobs)
    @rule(at=PICK, count=st.integers(0, 10))
    def resize(self, at: int, count: int) -> None:
        handle, expected = self.pick(at)
        before = len(expected.current)
        self._resize(handle, expected, count)
        parent = expected.meta.parent
        if parent is not None:
            shown = self.expected.blobs[parent].current
            for block in range(before, min(len(expected.current), len(shown))):
                expected.write(block, shown[block])

    def _resize(self, handle: Blob, expected: ExpectedBlob, count: int) -> None:
        try:
            handle.resize(count * CLUSTER)
        except BlobstoreError as error:
            self.refused(error, handle, expected)
            return
        self.change_meta(expected, cluster_count=count)

    @precondition(has_blobs)
    @rule(at=PICK)
    def delete_blob(self, at: int) -> None:
        handle, expected = self.pick(at)
        blob_id, clones = handle.id, self.clones_of(handle.id)
        with pytest.raises(BusyError):
            self.store.delete_blob(blob_id)
        for other in [other for other in self.handles if other.id == blob_id]:
            other.close()
            self.handles.remove(other)
        expected.flushed()
        error = attempt(lambda: self.store.delete_blob(blob_id))
        if isinstance(error, BlobstoreError):
            assert isinstance(error, BusyError if len(clones) > 1 else NoSpaceError)
            return
        del self.expected.blobs[blob_id]
        if blob_id in self.expected.super_blobs:
            self.expected.super_blobs = {None}
        for clone in clones:
            self.move(clone, expected.meta.parent)

    @precondition(has_blobs)
    @rule(at=PICK)
    def what_is_seen_is_what_was_written(self, at: int) -> None:
        handle, expected = self.pick(at)
        content = self.content(expected)
        assert handle.read(handle.size) == content
        for begin in range(0, handle.size, CLUSTER):  # by the fast path, where a cluster is known
            assert handle.read(CLUSTER, begin) == content[begin : begin + CLUSTER]
        assert handle.info.parent == expected.meta.parent
        assert len(expected.current) * BLOCK == handle.size


TestSnapshotModel = pytest.mark.slow(SnapshotModel.TestCase)
TestSnapshotModel.settings = settings(max_examples=80, stateful_step_count=50)
