"""Which clusters an extent page may name."""

from collections.abc import Callable
from typing import Final

import pytest

from blobstore import Blobstore, CorruptError
from tests.proof.forge import Forge, extents, flags, table

CLUSTERS: Final = 256


def forged(clusters: list[int]) -> Forge:
    """Return a store of one blob, whose extent page names these clusters."""
    forge = Forge(cluster_count=CLUSTERS)
    forge.root(0, flags(), table(len(clusters), (1, 1)))
    forge.put(1, 0, extents(0, clusters))
    return forge


def first_of_data() -> int:
    with Blobstore.open(forged([0]).device(read_only=True), read_only=True) as store:
        return store.info.total_clusters - store.info.data_clusters


@pytest.mark.parametrize(
    "clusters_of",
    [
        pytest.param(lambda first: [0, 0], id="none"),
        pytest.param(lambda first: [first, 0, first + 1], id="the first two of the data"),
        pytest.param(lambda first: [0, CLUSTERS - 1], id="the last"),
    ],
)
def test_a_blob_whose_extent_page_names_clusters_of_the_data_opens(
    clusters_of: Callable[[int], list[int]],
) -> None:
    clusters = clusters_of(first_of_data())
    with (
        Blobstore.open(forged(clusters).device(read_only=True), read_only=True) as store,
        store.open_blob(store.blob_ids()[0]) as blob,
    ):
        assert blob.info.allocated_clusters == sum(cluster > 0 for cluster in clusters)


@pytest.mark.parametrize(
    "clusters_of",
    [
        pytest.param(lambda first: [0, first - 1, first], id="the last of the metadata"),
        pytest.param(lambda first: [first, 0, CLUSTERS], id="the one after the last"),
        pytest.param(lambda first: [0xFFFF_FFFF], id="the greatest number"),
    ],
)
def test_a_blob_whose_extent_page_names_another_cluster_does_not_open(
    clusters_of: Callable[[int], list[int]],
) -> None:
    clusters = clusters_of(first_of_data())
    with (
        Blobstore.open(forged(clusters).device(read_only=True), read_only=True) as store,
        pytest.raises(CorruptError, match="names a cluster outside of"),
    ):
        store.open_blob(store.blob_ids()[0])
