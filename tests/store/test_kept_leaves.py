"""Leaves made from runs: what a blob kept of them is given back when it is closed."""

from typing import Final

import pytest

from blobstore import Blobstore, NoSpaceError
from blobstore.alloc.leaves import KeptLeaves
from blobstore.format.descriptors import THIN_PROV
from blobstore.testing.internals import core_of
from blobstore.units import BlobId
from tests.proof.forge import Forge, flags, runs
from tests.proof.image_device import SparseDevice

CLUSTER: Final = 4096
RUNS: Final = [run for n in range(20) for run in ((300 + n, 1), (0, 600))]


def forged(*, md_len: int = 64) -> SparseDevice:
    forge = Forge(md_len=md_len, cluster_size=CLUSTER, cluster_count=2048, every_cluster=True)
    forge.root(0, flags(THIN_PROV), runs(*RUNS))
    return forge.device()


def kept(store: Blobstore) -> int:
    return KeptLeaves().parts_left - core_of(store).kept_leaves.parts_left


def read_all(store: Blobstore, blob_id: BlobId) -> None:
    with store.open_blob(blob_id) as blob:
        for at in range(20):
            blob.read(10, at * 601 * CLUSTER)


def test_a_closed_blob_keeps_no_leaves() -> None:
    with Blobstore.open(forged()) as store, store.open_blob(store.blob_ids()[0]) as blob:
        read_all(store, blob.id)
        assert kept(store) == 20 * KeptLeaves.PARTS
        blob.close()
        assert kept(store) == 0


def test_a_blob_that_shrank_to_one_leaf_keeps_none_when_it_is_closed() -> None:
    with Blobstore.open(forged()) as store, store.open_blob(store.blob_ids()[0]) as blob:
        read_all(store, blob.id)
        blob.resize(100 * CLUSTER)
        assert kept(store) == KeptLeaves.PARTS
        blob.close()
        assert kept(store) == 0


def test_a_snapshot_takes_over_what_its_blob_kept_and_a_refused_one_takes_nothing() -> None:
    with Blobstore.open(forged(md_len=64)) as store, store.open_blob(store.blob_ids()[0]) as blob:
        read_all(store, blob.id)
        before = kept(store)
        blob.snapshot().close()
        assert kept(store) == before
        blob.close()
        assert kept(store) == 0
    with Blobstore.open(forged(md_len=2)) as store, store.open_blob(store.blob_ids()[0]) as blob:
        read_all(store, blob.id)
        for _time in range(3):
            with pytest.raises(NoSpaceError):
                blob.snapshot().close()
        assert kept(store) == before
