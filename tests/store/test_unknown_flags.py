"""Blobs with flags that only a newer version knows."""

import pytest

from blobstore import Blobstore, ReadOnlyError, check
from tests.proof.corruptions.image import StoreImage
from tests.proof.corruptions.sample import ImageDevice

CLUSTER = 16384
UNKNOWN = 1 << 7


def test_a_clone_of_a_blob_that_an_unknown_flag_makes_read_only_is_as_it_must_be() -> None:
    """SPDK opens such a blob read-only, and clones it; so it is read-only wherever that matters."""
    made = ImageDevice(bytes(8 << 20), atomic_write_size=512)
    with Blobstore.create(made, cluster_size=CLUSTER) as store:
        blob = store.create_blob(size=2 * CLUSTER, thin=True)
        blob.write(b"content", 0)
        blob.close()
    image = StoreImage.of(made.image, made.image, {"newer": blob.id})
    image.set_flags("newer", data_ro=UNKNOWN)
    device = ImageDevice(bytes(image.data), atomic_write_size=512)
    with Blobstore.open(device) as store, store.open_blob(blob.id) as newer:
        with pytest.raises(ReadOnlyError):
            newer.write(b"changed", 0)
        clone = newer.clone()
        assert clone.read(7, 0) == b"content"
        clone.write(b"changed", 0)
        other = store.create_blob(size=2 * CLUSTER, thin=True)
        other.set_parent(newer.id)
        assert other.read(7, 0) == b"content"
    report = check(ImageDevice(device.image, atomic_write_size=512))
    assert {finding.invariant for finding in report.findings} <= {26}
    with Blobstore.open(ImageDevice(device.image, atomic_write_size=512)) as store:
        found = {info.blob_id: info for info in store.list_blobs()}
        assert found[blob.id].read_only
        assert found[blob.id].data_ro_flags == UNKNOWN
        assert found[blob.id].clones == [clone.id, other.id]
