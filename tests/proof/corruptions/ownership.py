"""Things with two owners: invariants 35 and 36."""

from blobstore.format.descriptors import ExtentTable
from blobstore.format.mask import MASK_CLUSTERS, MASK_PAGES
from tests.proof.corruptions.catalogue import Place, corruption
from tests.proof.corruptions.image import StoreImage


def _share(image: StoreImage, name: str, *, with_blob: str, at: int = 0) -> Place:
    """Let a blob own another's last cluster instead of its own one."""
    cluster, own = image.clusters(with_blob)[-1], image.clusters(name)[at]
    image.put_cluster(name, cluster, instead_of=own)
    image.mark(MASK_CLUSTERS, own, False)
    return Place(cluster=cluster)


@corruption(35, touches=("runs", "thick"))
def _cluster_of_two_blobs(image: StoreImage) -> Place:
    return _share(image, "thick", with_blob="runs")


@corruption(35, touches=("runs", "thick"), dirty=True)
def _cluster_of_two_blobs_in_a_dirty_store(image: StoreImage) -> Place:
    return _share(image, "runs", with_blob="thick")


@corruption(35, touches=("thick",))
def _cluster_of_one_blob_twice(image: StoreImage) -> Place:
    return _share(image, "thick", with_blob="thick")


@corruption(35, touches=("runs", "thick", "sealed"))
def _cluster_of_three_blobs(image: StoreImage) -> Place:
    _share(image, "thick", with_blob="sealed")
    return _share(image, "runs", with_blob="sealed")


@corruption(35, touches=("old", "middle", "origin", "clone"))
def _cluster_of_a_snapshot_and_its_clone(image: StoreImage) -> Place:
    return _share(image, "origin", with_blob="old")


@corruption(31, touches=("thick", "sealed"))
def _extent_page_overwritten_with_that_of_another_blob(image: StoreImage) -> Place:
    (page,), (victim,) = image.extent_pages("thick"), image.extent_pages("sealed")
    image.put_bytes(victim, image.page_bytes(page))
    return Place(page=victim)


@corruption(36, 35, touches=("thick", "sealed"))
def _extent_page_of_two_blobs(image: StoreImage) -> Place:
    (page,), (own,) = image.extent_pages("thick"), image.extent_pages("sealed")
    for cluster in image.clusters("sealed"):
        image.mark(MASK_CLUSTERS, cluster, False)
    image.mark(MASK_PAGES, own, False)
    image.put_table("sealed", ExtentTable(5, ((page, 1),)))
    return Place(page=page)


@corruption(36, touches=("thin",))
def _extent_page_twice_in_a_table(image: StoreImage) -> Place:
    first, _last = image.extent_pages("thin")
    image.put_table("thin", ExtentTable(1024, ((first, 1), (first, 1))))
    return Place(page=first)


@corruption(31, 36, touches=("thick", "attributed"))
def _chain_page_in_a_table(image: StoreImage) -> Place:
    page = image.chain("attributed")[1]
    image.put_table("thick", ExtentTable(5, ((page, 1),)))
    return Place(page=page)


@corruption(31, 36, touches=("thick", "runs"), dirty=True)
def _root_in_a_table(image: StoreImage) -> Place:
    page = image.root("runs")
    image.put_table("thick", ExtentTable(5, ((page, 1),)))
    return Place(page=page)
