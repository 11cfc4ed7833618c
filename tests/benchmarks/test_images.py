"""The image that is opened by the benchmarks is a store."""

from pathlib import Path

import pytest

from benchmarks.images import ManyBlobs, root_offsets, write_dirty_image
from blobstore import Blobstore
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import HEAD
from blobstore.format.root import Layout
from blobstore.testing.internals import core_of


@pytest.mark.parametrize("layout", Layout)
def test_the_image_is_a_dirty_store_of_as_many_blobs(tmp_path: Path, layout: Layout) -> None:
    wanted = ManyBlobs(blob_count=300, page_count=1000, clusters_per_blob=3, layout=layout)
    path = tmp_path / "many.img"
    geometry = write_dirty_image(path, wanted)
    with Blobstore.open(path) as store:
        assert core_of(store).was_recovered
        assert store.errors == {}
        assert store.blob_ids() == [blob_id_of(wanted.root_of(number)) for number in range(300)]
        assert core_of(store).pages.used.count() == 600
        assert store.free_clusters == geometry.data_clusters - 900
        with store.open_blob(blob_id_of(wanted.root_of(299))) as blob:
            assert blob.size == 3 * geometry.cluster_size
            assert blob.info.allocated_clusters == 3
    with Blobstore.open(path) as store:
        assert not core_of(store).was_recovered
        assert len(store.blob_ids()) == 300


def test_the_roots_lie_where_they_are_said_to(tmp_path: Path) -> None:
    wanted = ManyBlobs(blob_count=20, page_count=100)
    path = tmp_path / "many.img"
    write_dirty_image(path, wanted)
    image = path.read_bytes()
    for number, offset in enumerate(root_offsets(wanted)):
        blob_id, sequence, _reserved = HEAD.unpack_from(image, offset)
        assert (blob_id, sequence) == (blob_id_of(wanted.root_of(number)), 0)
