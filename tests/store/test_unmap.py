"""What a range reads as after it was unmapped, on blobs of every kind."""

import pytest

from blobstore import Blob, Blobstore, MemoryDevice

CLUSTER = 16384
SIZE = 4 * CLUSTER


def blob_of(store: Blobstore, kind: str) -> Blob:
    """Make a blob that owns all of its clusters; a clone's parent does so, too."""
    blob = store.create_blob(size=SIZE, thin=kind != "thick")
    blob.write(b"p" * SIZE, 0)
    if kind == "clone":
        blob.snapshot().close()
    if kind == "clone of an external snapshot":
        blob.close()
        source = MemoryDevice(SIZE, fill=0xEE)
        store.register_external(b"outside", source)
        blob = store.create_blob(size=SIZE, external_snapshot=b"outside")
    blob.write(b"x" * 3 * CLUSTER, 0)
    return blob


KINDS = ["thick", "thin", "clone", "clone of an external snapshot"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_unmapped_reads_as_zeroes_and_never_as_the_parent_again(kind: str) -> None:
    with Blobstore.create(MemoryDevice(8 << 20), cluster_size=CLUSTER) as store:
        blob = blob_of(store, kind)
        last = blob.read(CLUSTER, 3 * CLUSTER)
        blob.unmap(CLUSTER, CLUSTER)
        blob.unmap(2 * CLUSTER + 100, 100)
        expected = bytearray(b"x" * 3 * CLUSTER)
        expected[CLUSTER : 2 * CLUSTER] = bytes(CLUSTER)
        expected[2 * CLUSTER + 100 : 2 * CLUSTER + 200] = bytes(100)
        assert blob.read(3 * CLUSTER) == expected
        blob.flush()
        assert blob.read(SIZE) == bytes(expected) + last


@pytest.mark.parametrize("kind", ["clone", "clone of an external snapshot"])
def test_where_a_clone_has_nothing_it_reads_its_parent_after_an_unmap(kind: str) -> None:
    with Blobstore.create(MemoryDevice(8 << 20), cluster_size=CLUSTER) as store:
        blob = blob_of(store, kind)
        before = blob.read(CLUSTER, 3 * CLUSTER)
        assert before in {b"p" * CLUSTER, b"\xee" * CLUSTER}
        blob.unmap(3 * CLUSTER, CLUSTER)
        assert blob.read(CLUSTER, 3 * CLUSTER) == before
