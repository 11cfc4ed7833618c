"""What servers ask of an open blob, compared with what its maps and its content say."""

import threading
from itertools import pairwise
from random import Random

import pytest

from blobstore import Blob, BlobId, Blobstore, InvalidArgumentError, MemoryDevice, NotFoundError
from blobstore.api.disk_view import NOT_HELD, Ranges, ancestors, changes, clear, depths

CLUSTER = 16 << 10
COUNT = 40


def new_store() -> Blobstore:
    return Blobstore.create(MemoryDevice(32 << 20), cluster_size=CLUSTER)


def held(blob: Blob) -> set[int]:
    """The clusters that the blob itself holds."""
    found: set[int] = set()
    for offset, length, allocated in blob.extents():
        if allocated:
            found |= set(range(offset // CLUSTER, (offset + length) // CLUSTER))
    return found


def by_cluster(ranges: Ranges) -> list[int]:
    """The value of each cluster; the ranges must follow each other without a gap."""
    values: list[int] = []
    for offset, length, value in ranges:
        assert offset == len(values) * CLUSTER
        values += [value] * (length // CLUSTER)
    return values


def neighbours_differ(ranges: Ranges) -> bool:
    return all(one[2] != other[2] for one, other in pairwise(ranges))


@pytest.mark.parametrize("seed", range(8))
def test_depths_and_changes_are_what_the_maps_of_the_chain_say(seed: int) -> None:
    random = Random(seed)
    with new_store() as store:
        blob = store.create_blob(COUNT * CLUSTER, thin=True)
        chain: list[Blob] = []
        for number in range(5):
            for _write in range(random.randrange(12)):
                blob.write(random.randbytes(99), random.randrange(COUNT * CLUSTER - 99))
            if number < 4:
                chain.insert(0, blob.snapshot(f"s{number}"))
        levels = [held(blob), *map(held, chain)]
        found = depths(blob, 0, blob.size)
        assert neighbours_differ(found)
        assert by_cluster(found) == [
            next((depth for depth, own in enumerate(levels, start=1) if at in own), NOT_HELD)
            for at in range(COUNT)
        ]
        for level, base in enumerate(chain, start=1):
            changed = set().union(*levels[:level])
            since = changes(blob, base.id, 0, blob.size)
            assert neighbours_differ(since)
            assert by_cluster(since) == [int(at in changed) for at in range(COUNT)]
        assert [name for _id, name in ancestors(blob)] == ["s3", "s2", "s1", "s0"]


def test_what_a_shorter_parent_hides_has_changed_and_reads_as_zeroes() -> None:
    with new_store() as store:
        base = store.create_blob(4 * CLUSTER, thin=True)
        base.write(b"x" * 4 * CLUSTER)
        old = base.snapshot()
        base.resize(2 * CLUSTER)
        base.snapshot()
        base.resize(6 * CLUSTER)
        assert base.read(4 * CLUSTER, 2 * CLUSTER) == bytes(4 * CLUSTER)
        assert by_cluster(depths(base, 0, base.size)) == [3, 3, 0, 0, 0, 0]
        assert by_cluster(changes(base, old.id, 0, base.size)) == [0, 0, 1, 1, 0, 0]


def test_an_external_snapshot_counts_as_one_more_parent() -> None:
    with new_store() as store:
        blob = store.create_blob(2 * CLUSTER, external_snapshot=b"outside")
        store.register_external(b"outside", MemoryDevice(2 * CLUSTER))
        blob.write(b"x")
        assert by_cluster(depths(blob, 0, blob.size)) == [1, 2]


def test_ranges_begin_and_end_where_it_was_asked_for() -> None:
    with new_store() as store:
        blob = store.create_blob(4 * CLUSTER, thin=True)
        blob.write(b"x", CLUSTER)
        assert depths(blob, 5, 2 * CLUSTER) == [
            (5, CLUSTER - 5, 0),
            (CLUSTER, CLUSTER, 1),
            (2 * CLUSTER, 5, 0),
        ]
        assert depths(blob, 5, 2 * CLUSTER, limit=1) == [(5, CLUSTER - 5, 0)]
        for offset, length in ((-1, 1), (0, 0), (4 * CLUSTER, 1)):
            with pytest.raises(InvalidArgumentError):
                depths(blob, offset, length)


def test_a_blob_that_is_no_ancestor_has_no_changes() -> None:
    with new_store() as store:
        blob = store.create_blob(CLUSTER)
        for other in (BlobId(0), blob.id):
            with pytest.raises(NotFoundError, match="no ancestor"):
                changes(blob, other, 0, CLUSTER)


def test_cleared_clusters_of_a_clone_are_allocated_only_where_a_parent_shows() -> None:
    with new_store() as store:
        blob = store.create_blob(8 * CLUSTER, thin=True)
        blob.write(b"x" * 2 * CLUSTER, 3 * CLUSTER)
        blob.snapshot()
        blob.write(b"y", 6 * CLUSTER)
        clear(blob, 1, 8 * CLUSTER - 1)
        assert blob.read(8 * CLUSTER) == bytes(8 * CLUSTER)
        assert held(blob) == {3, 4, 6}


def test_a_snapshot_made_while_a_range_is_cleared_does_not_bring_its_content_back() -> None:
    for seed in range(8):
        with new_store() as store:
            blob = store.create_blob(32 * CLUSTER, thin=True)
            blob.write(b"x" * 32 * CLUSTER)
            thread = threading.Thread(target=blob.snapshot)
            if seed % 2:
                thread.start()
            clear(blob, 0, 32 * CLUSTER)
            if not seed % 2:
                thread.start()
            thread.join()
            assert blob.read(32 * CLUSTER) == bytes(32 * CLUSTER)
