"""What each blob uses, shares and would free."""

import pytest
from hypothesis import given, settings

from blobstore import BlobInfo, Blobstore, BlobstoreError, MemoryDevice
from blobstore.backup.space_usage import SpaceUsage, space_usage
from tests.backup.random_trees import CHANGES, CLUSTER, Change, copy_of, grow, new_store
from tests.blob.test_changed_runs import shown_by


@pytest.mark.slow
@settings(max_examples=25)
@given(changes=CHANGES)
def test_deleting_a_blob_frees_what_was_said(changes: list[Change]) -> None:
    with new_store() as store:
        blobs = grow(store, changes)
        store.flush()
        for usage in space_usage(store):
            with copy_of(store) as copy:
                before = copy.free_clusters
                try:
                    copy.delete_blob(usage.blob_id)
                except BlobstoreError:
                    freed = None
                else:
                    freed = (copy.free_clusters - before) * CLUSTER
            assert usage.freed == freed, usage
        assert len(blobs) == len(space_usage(store))


@pytest.mark.slow
@settings(max_examples=25)
@given(changes=CHANGES)
def test_deleting_the_snapshots_that_only_one_blob_needs_frees_what_was_said(
    changes: list[Change],
) -> None:
    with new_store() as store:
        grow(store, changes)
        store.flush()
        for usage in space_usage(store):
            if usage.by_snapshots is None:
                continue
            with copy_of(store) as copy:
                before = copy.free_clusters
                while (parent := info_of(copy, usage).parent) is not None:
                    with copy.open_blob(parent) as snapshot:
                        if len(snapshot.info.clones) > 1:
                            break
                    copy.delete_blob(parent)
                assert usage.by_snapshots == (copy.free_clusters - before) * CLUSTER


def info_of(store: Blobstore, usage: SpaceUsage) -> BlobInfo:
    with store.open_blob(usage.blob_id) as blob:
        return blob.info


@pytest.mark.slow
@given(changes=CHANGES)
def test_refer_own_and_shared_are_counted_right(changes: list[Change]) -> None:
    with new_store() as store:
        blobs = grow(store, changes)
        shown = {
            blob_id: {cluster for cluster in clusters if cluster > 0}
            for blob_id, clusters in shown_by(blobs).items()
        }
        for usage in space_usage(store):
            mine = shown[usage.blob_id]
            others = set().union(*(found for at, found in shown.items() if at != usage.blob_id))
            assert usage.refer == len(mine) * CLUSTER
            assert usage.shared == len(mine & others) * CLUSTER
            own = sum(blob.info.allocated_clusters for blob in blobs if blob.id == usage.blob_id)
            assert usage.own == own * CLUSTER


@pytest.mark.slow
def test_a_chain_of_a_thousand_snapshots_is_measured_in_one_pass() -> None:
    with Blobstore.create(MemoryDevice(32 << 20), cluster_size=CLUSTER) as store:
        blob = store.create_blob(64 * CLUSTER, thin=True)
        for number in range(1000):
            blob.write(b"x" * CLUSTER, number % 64 * CLUSTER)
            blob.snapshot().close()
        usages = space_usage(store)
        assert len(usages) == 1001
        assert usages[0].by_snapshots == (1000 - 64) * CLUSTER
