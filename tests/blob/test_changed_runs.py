"""Which parts of two blobs differ, by their maps."""

from collections.abc import Sequence

import pytest
from hypothesis import given

from blobstore import Blob, Blobstore, ClosedError, InvalidArgumentError, MemoryDevice
from tests.backup.random_trees import CHANGES, CLUSTER, Change, grow, new_store

OUTSIDE = -1


def clusters_of(blob: Blob) -> list[int]:
    """Return the cluster of each place of a blob, or 0."""
    found: list[int] = []
    for first, count in blob.info.extents:
        found += range(first, first + count) if first else [0] * count
    return found


def shown_by(blobs: list[Blob]) -> dict[int, list[int]]:
    """Return what each place of each blob shows, found the simple way: parents first."""
    known: dict[int, list[int]] = {}
    by_id = {int(blob.id): blob for blob in blobs}

    def shown(blob_id: int) -> list[int]:
        if blob_id not in known:
            info, own = by_id[blob_id].info, clusters_of(by_id[blob_id])
            below = [0] * len(own)
            if info.parent is not None:
                below = shown(info.parent)
            elif info.external_snapshot is not None:
                below = [OUTSIDE] * len(own)
            below = [*below, *[0] * len(own)]
            known[blob_id] = [cluster or below[at] for at, cluster in enumerate(own)]
        return known[blob_id]

    for blob in blobs:
        shown(blob.id)
    return known


@pytest.mark.slow
@given(changes=CHANGES)
def test_two_blobs_differ_exactly_where_they_show_different_clusters(changes: list[Change]) -> None:
    with new_store() as store:
        blobs = grow(store, changes)
        shown = shown_by(blobs)
        for one in [None, *blobs]:
            old = [] if one is None else shown[one.id]
            for other in blobs:
                new = shown[other.id]
                end = max(len(old), len(new))
                wide_old, wide_new = old + [0] * (end - len(old)), new + [0] * (end - len(new))
                expected = {
                    at: wide_new[at] != 0 for at in range(end) if wide_old[at] != wide_new[at]
                }
                ranges = other.changed_ranges(one)
                found = {
                    at // CLUSTER: has_data
                    for offset, length, has_data in ranges
                    for at in range(offset, offset + length, CLUSTER)
                }
                assert found == expected
                assert ranges == sorted(ranges)


@pytest.mark.slow
@given(changes=CHANGES)
def test_outside_of_the_changed_ranges_two_blobs_read_the_same(changes: list[Change]) -> None:
    with new_store() as store:
        blobs = grow(store, changes)
        contents = [blob.read(blob.size) for blob in blobs]
        end = max(map(len, contents))
        for number, blob in enumerate(blobs):
            new = bytearray(contents[number].ljust(end, b"\0"))
            base = blobs[number - 1]
            old = bytearray(contents[number - 1].ljust(end, b"\0"))
            for offset, length, has_data in blob.changed_ranges(base):
                part = slice(offset, offset + length)
                assert has_data or not any(new[part])
                new[part] = old[part] = bytes(length)
            assert new == old


def test_a_blob_of_another_store_or_a_closed_one_is_refused() -> None:
    with (
        Blobstore.create(MemoryDevice(4 << 20), cluster_size=CLUSTER) as one,
        Blobstore.create(MemoryDevice(4 << 20), cluster_size=CLUSTER) as other,
    ):
        blob, closed, far = one.create_blob(), one.create_blob(), other.create_blob()
        closed.close()
        with pytest.raises(InvalidArgumentError, match="another store"):
            blob.changed_ranges(far)
        with pytest.raises(ClosedError):
            blob.changed_ranges(closed)


class CountingDevice(MemoryDevice):
    """Memory that counts how often it is read."""

    read_count = 0

    def read(self, offset: int, length: int) -> bytes:
        self.read_count += 1
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.read_count += 1
        super().read_into(offset, buffers)


def test_comparing_two_open_snapshots_reads_nothing_from_the_device() -> None:
    device = CountingDevice(8 << 20)
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        blob = store.create_blob(700 * CLUSTER, thin=True)
        blob.write(b"1" * CLUSTER)
        first = blob.snapshot()
        blob.write(b"2" * CLUSTER, 650 * CLUSTER)
        second = blob.snapshot()
        before = device.read_count
        assert second.changed_ranges(first) == [(650 * CLUSTER, CLUSTER, True)]
        assert first.changed_ranges(second) == [(650 * CLUSTER, CLUSTER, False)]
        assert device.read_count == before
