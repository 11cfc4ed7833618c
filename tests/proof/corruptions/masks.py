"""Broken masks on a clean store: invariants 10 to 15."""

from blobstore.format.geometry import blob_id_of
from blobstore.format.mask import MASK_BLOB_IDS, MASK_CLUSTERS, MASK_PAGES
from blobstore.fsck.finding import Severity
from tests.proof.corruptions.catalogue import Place, corruption
from tests.proof.corruptions.image import StoreImage


def _put_length(image: StoreImage, kind: int, length: int) -> None:
    at = image.mask_offset(kind) + 1
    image.data[at : at + 4] = length.to_bytes(4, "little")


@corruption(10, mode="safe")
def _mask_of_pages_of_another_type(image: StoreImage) -> None:
    image.data[image.mask_offset(MASK_PAGES)] = MASK_CLUSTERS


@corruption(10, mode="safe")
def _mask_of_clusters_of_an_unknown_type(image: StoreImage) -> None:
    image.data[image.mask_offset(MASK_CLUSTERS)] = 7


@corruption(10, mode="safe")
def _mask_of_ids_of_another_type(image: StoreImage) -> None:
    image.data[image.mask_offset(MASK_BLOB_IDS)] = MASK_PAGES


@corruption(11, mode="safe")
def _mask_longer_than_its_region(image: StoreImage) -> None:
    _put_length(image, MASK_CLUSTERS, 0xFFFF_FFFF)


@corruption(11, mode="safe")
def _mask_shorter_than_the_metadata(image: StoreImage) -> None:
    _put_length(image, MASK_PAGES, image.geometry.md_len - 1)


@corruption(11, mode="safe")
def _mask_of_ids_without_bits(image: StoreImage) -> None:
    _put_length(image, MASK_BLOB_IDS, 0)


@corruption(12, mode="safe")
def _root_not_marked(image: StoreImage) -> Place:
    image.mark(MASK_PAGES, image.root("thick"), False)
    return Place(page=image.root("thick"))


@corruption(12, mode="safe")
def _chain_page_not_marked(image: StoreImage) -> Place:
    page = image.chain("attributed")[-1]
    image.mark(MASK_PAGES, page, False)
    return Place(page=page)


@corruption(12, mode="safe")
def _extent_page_not_marked(image: StoreImage) -> Place:
    page = image.extent_pages("thin")[1]
    image.mark(MASK_PAGES, page, False)
    return Place(page=page)


@corruption(12, mode="leaks", severity=Severity.LEAK)
def _page_marked_for_nobody(image: StoreImage) -> Place:
    image.mark(MASK_PAGES, image.free_pages[0], True)
    return Place(page=image.free_pages[0])


@corruption(13, 15, mode="safe")
def _cluster_not_marked(image: StoreImage) -> Place:
    cluster = image.clusters("runs")[2]
    image.mark(MASK_CLUSTERS, cluster, False)
    return Place(cluster=cluster)


@corruption(13, 15, mode="safe")
def _metadata_cluster_not_marked(image: StoreImage) -> Place:
    image.mark(MASK_CLUSTERS, 0, False)
    return Place(cluster=0)


@corruption(13, 15, mode="leaks", severity=Severity.LEAK)
def _cluster_marked_for_nobody(image: StoreImage) -> Place:
    image.mark(MASK_CLUSTERS, image.free_clusters[3], True)
    return Place(cluster=image.free_clusters[3])


@corruption(13, mode="safe")
def _one_cluster_marked_for_another(image: StoreImage) -> Place:
    """The free count is right all the same."""
    cluster = image.clusters("thin")[0]
    image.mark(MASK_CLUSTERS, cluster, False)
    image.mark(MASK_CLUSTERS, image.free_clusters[0], True)
    return Place(cluster=cluster)


@corruption(14, mode="safe")
def _blob_id_not_marked(image: StoreImage) -> Place:
    image.mark(MASK_BLOB_IDS, image.root("sealed"), False)
    return Place(blob=image.names["sealed"])


@corruption(14, mode="leaks", severity=Severity.LEAK)
def _blob_id_marked_for_nobody(image: StoreImage) -> Place:
    image.mark(MASK_BLOB_IDS, image.free_pages[0], True)
    return Place(blob=blob_id_of(image.free_pages[0]))


@corruption(15, 13, mode="leaks", severity=Severity.LEAK)
def _too_few_free_clusters(image: StoreImage) -> None:
    for cluster in image.free_clusters[:9]:
        image.mark(MASK_CLUSTERS, cluster, True)


@corruption(15, 13, mode="safe")
def _too_many_free_clusters(image: StoreImage) -> None:
    for cluster in image.clusters("thick"):
        image.mark(MASK_CLUSTERS, cluster, False)
