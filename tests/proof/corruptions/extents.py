"""Broken extents: invariants 29 to 34, 37 and 38."""

from collections.abc import Sequence

from blobstore.format.descriptors import (
    EXTENT_TABLE,
    RUNS,
    THIN_PROV,
    ExtentPage,
    ExtentTable,
    Flags,
    Runs,
)
from blobstore.format.mask import MASK_CLUSTERS
from blobstore.units import PageIndex
from tests.descriptors import Unknown
from tests.proof.corruptions.catalogue import Place, corruption
from tests.proof.corruptions.image import StoreImage, entries_of, extents_of

_MOST = 0xFFFF_FFFF


def _put_runs(image: StoreImage, name: str, *runs: tuple[int, int]) -> Place:
    """Replace the runs of a blob; the clusters that it names no longer are free."""
    for cluster in image.clusters(name):
        is_kept = any(0 < first <= cluster < first + count for first, count in runs)
        image.mark(MASK_CLUSTERS, cluster, is_kept)
    image.replace_extents(name, Runs(runs))
    return Place(blob=image.names[name])


def _entries(image: StoreImage, page: PageIndex) -> list[int]:
    return entries_of(extents_of(image.descriptors(page)))


def _put_entries(image: StoreImage, name: str, entries: Sequence[int]) -> Place:
    """Replace the first extent page of a blob."""
    image.put_extent_page(image.extent_pages(name)[0], 0, entries)
    return Place(blob=image.names[name])


@corruption(29, 38, touches=("sparse",))
def _endless_run_of_nothing(image: StoreImage) -> Place:
    return _put_runs(image, "sparse", (0, _MOST))


@corruption(29, 38, dirty=True, touches=("sparse",))
def _endless_run_of_clusters(image: StoreImage) -> Place:
    return _put_runs(image, "sparse", (image.clusters("sparse")[0], _MOST))


@corruption(29, touches=("runs",))
def _runs_of_a_size_and_a_half(image: StoreImage) -> Place:
    image.replace_extents("runs", Unknown(RUNS, bytes(12)))
    return Place(blob=image.names["runs"])


@corruption(30, touches=("thin",))
def _tables_that_count_differently(image: StoreImage) -> Place:
    table = image.table("thin")
    other = ExtentTable(table.cluster_count + 1, table.entries[2:])
    image.put_table("thin", ExtentTable(table.cluster_count, table.entries[:2]), other)
    return Place(blob=image.names["thin"])


@corruption(30, touches=("sealed",))
def _extent_page_counted_twice(image: StoreImage) -> Place:
    (page,) = image.extent_pages("sealed")
    image.put_table("sealed", ExtentTable(2, ((page, 2),)))
    return Place(blob=image.names["sealed"])


@corruption(30, dirty=True, touches=("sealed",))
def _extent_page_not_counted(image: StoreImage) -> Place:
    (page,) = image.extent_pages("sealed")
    image.put_table("sealed", ExtentTable(2, ((page, 0),)))
    return Place(blob=image.names["sealed"])


@corruption(30, touches=("thin",))
def _short_extent_page_in_the_middle(image: StoreImage) -> Place:
    return _put_entries(image, "thin", _entries(image, image.extent_pages("thin")[0])[:9])


@corruption(30, touches=("thick",))
def _table_shorter_than_its_head(image: StoreImage) -> Place:
    image.replace_extents("thick", Unknown(EXTENT_TABLE, bytes(4)))
    return Place(blob=image.names["thick"])


@corruption(31, touches=("thin",))
def _extent_page_of_another_range(image: StoreImage) -> Place:
    page = image.extent_pages("thin")[1]
    image.put_extent_page(page, 512, _entries(image, page))
    return Place(page=page)


@corruption(31, touches=("thick",))
def _extent_page_with_a_sequence(image: StoreImage) -> Place:
    (page,) = image.extent_pages("thick")
    image.rewrite(page, sequence=1)
    return Place(page=page)


@corruption(31, touches=("thick",))
def _extent_page_with_a_second_descriptor(image: StoreImage) -> Place:
    (page,) = image.extent_pages("thick")
    image.edit(page, lambda found: [*found, Flags()])
    return Place(page=page)


@corruption(31, touches=("thick",))
def _extent_page_with_a_next_one(image: StoreImage) -> Place:
    (page,) = image.extent_pages("thick")
    image.rewrite(page, next_page=image.free_pages[0])
    return Place(page=page)


@corruption(31, touches=("sealed",))
def _extent_page_without_an_entry(image: StoreImage) -> Place:
    _put_entries(image, "sealed", [])
    return Place(page=image.extent_pages("sealed")[0])


@corruption(31, touches=("thin",))
def _extent_page_of_513_entries(image: StoreImage) -> Place:
    page = image.extent_pages("thin")[0]
    image.edit(page, lambda _found: [ExtentPage(0, bytes(4 * 513))])
    return Place(page=page)


@corruption(31, touches=("thick",))
def _extent_page_outside_the_metadata(image: StoreImage) -> Place:
    image.put_table("thick", ExtentTable(5, ((image.geometry.md_len, 1),)))
    return Place(blob=image.names["thick"])


@corruption(31, touches=("runs",))
def _extent_page_in_a_chain(image: StoreImage) -> Place:
    image.edit_root("runs", lambda found: [*found, ExtentPage(0, bytes(4))])
    return Place(blob=image.names["runs"])


@corruption(32, 37, touches=("runs",))
def _run_of_nothing_in_a_thick_blob(image: StoreImage) -> Place:
    first = image.clusters("runs")[0]
    return _put_runs(image, "runs", (first, 2), (0, 2))


@corruption(32, 37, touches=("thick",))
def _entry_of_nothing_in_a_thick_blob(image: StoreImage) -> Place:
    clusters = image.clusters("thick")
    image.mark(MASK_CLUSTERS, clusters[2], False)
    return _put_entries(image, "thick", [*clusters[:2], 0, *clusters[3:]])


@corruption(33, 37, touches=("thick",), dirty=True)
def _absent_extent_page_in_a_thick_blob(image: StoreImage) -> Place:
    image.put_table("thick", ExtentTable(5, ((0, 1),)))
    return Place(blob=image.names["thick"])


@corruption(33, 32, 37, touches=("thin",))
def _absent_extent_page_in_a_blob_that_became_thick(image: StoreImage) -> Place:
    image.set_flags("thin", drop=THIN_PROV)
    return Place(blob=image.names["thin"])


@corruption(34, touches=("thick",))
def _cluster_in_the_metadata(image: StoreImage) -> Place:
    return _move_cluster(image, "thick", 3)


@corruption(34, touches=("thick",))
def _cluster_beyond_the_end(image: StoreImage) -> Place:
    return _move_cluster(image, "thick", image.geometry.total_clusters)


@corruption(34, touches=("runs",))
def _run_in_the_metadata(image: StoreImage) -> Place:
    return _move_cluster(image, "runs", image.geometry.md_clusters - 1)


@corruption(34, touches=("runs",))
def _run_beyond_the_end(image: StoreImage) -> Place:
    return _move_cluster(image, "runs", image.geometry.total_clusters)


def _move_cluster(image: StoreImage, name: str, cluster: int) -> Place:
    """Put a blob's first cluster to where none can be."""
    moved = image.clusters(name)[0]
    image.put_cluster(name, cluster, instead_of=moved)
    image.mark(MASK_CLUSTERS, moved, False)
    return Place(blob=image.names[name], cluster=cluster)


@corruption(37, 32, touches=("sparse",))
def _thick_blob_with_holes(image: StoreImage) -> Place:
    image.set_flags("sparse", drop=THIN_PROV)
    return Place(blob=image.names["sparse"])


@corruption(38, touches=("thin",))
def _more_clusters_than_a_blob_can_have(image: StoreImage) -> Place:
    image.put_table("thin", ExtentTable(1 << 40, ((0, _MOST),)))
    return Place(blob=image.names["thin"])


@corruption(38, 29, touches=("sparse",))
def _runs_that_add_up_to_too_much(image: StoreImage) -> Place:
    return _put_runs(image, "sparse", (0, 1 << 30), (0, 1 << 30), (0, 1 << 30))
