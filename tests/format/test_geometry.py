"""Geometry: layouts computed, taken from super blocks, refused and grown."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from blobstore.errors import (
    BlobstoreError,
    CorruptError,
    InvalidArgumentError,
    NoSpaceError,
)
from blobstore.format.geometry import (
    LARGEST_PAGE_SIZE,
    MAX_CLUSTERS,
    Geometry,
    blob_id_of,
    root_of,
)
from blobstore.format.super_block import NO_BLOB, MaskRegion, SuperBlock
from blobstore.units import BlobId, ClusterIndex, PageIndex

MIB = 1 << 20
TIB = 1 << 40


def super_block_of(geometry: Geometry) -> SuperBlock:
    return SuperBlock(
        version=3,
        clean=True,
        super_blob=NO_BLOB,
        cluster_size=geometry.cluster_size,
        used_pages=geometry.used_pages,
        used_clusters=geometry.used_clusters,
        md_start=geometry.md_start,
        md_len=geometry.md_len,
        bstype=bytes(16),
        used_blob_ids=geometry.used_blob_ids,
        size_bytes=geometry.size_bytes,
        io_unit_size=geometry.io_unit_size,
        md_page_size=geometry.page_size,
    )


def computed(
    *,
    size_bytes: int = 16 * MIB,
    cluster_size: int = 65536,
    page_size: int = 4096,
    io_unit_size: int = 4096,
    md_pages: int | None = None,
) -> Geometry:
    """Lay out the device on which the original's error codes were recorded."""
    return Geometry.compute(
        size_bytes=size_bytes,
        cluster_size=cluster_size,
        page_size=page_size,
        io_unit_size=io_unit_size,
        md_pages=md_pages,
    )


NEW = computed()


def test_a_small_store_has_one_page_per_mask() -> None:
    assert NEW == Geometry(
        size_bytes=16 * MIB,
        cluster_size=65536,
        page_size=4096,
        io_unit_size=4096,
        used_pages=MaskRegion(1, 1),
        used_clusters=MaskRegion(2, 1),
        used_blob_ids=MaskRegion(3, 1),
        md_start=4,
        md_len=256,
    )
    assert (NEW.total_clusters, NEW.md_clusters, NEW.data_clusters) == (256, 17, 239)
    assert NEW.max_growable_size == 2_144_862_208


def test_clusters_need_not_be_a_power_of_two() -> None:
    found = computed(cluster_size=12288)
    assert (found.total_clusters, found.md_len, found.md_start) == (1365, 1365, 4)
    assert (found.md_clusters, found.data_clusters) == (457, 908)
    assert found.max_growable_size == 402_161_664


def test_pages_of_16_kib_move_everything() -> None:
    found = computed(size_bytes=64 * MIB, page_size=16384, io_unit_size=512)
    assert found.page_offset(PageIndex(3)) == (4 + 3) * 16384
    assert (found.pages_per_cluster, found.md_clusters) == (4, 257)
    assert found.metadata_end == (4 + 1024) * 16384


def test_a_petabyte_is_laid_out_without_losing_a_bit() -> None:
    found = computed(size_bytes=1024 * TIB + 5, cluster_size=MIB)
    masks = 32_769  # 2^30 bits and a header, in pages
    assert found.used_clusters == MaskRegion(1 + masks, masks)
    assert found.md_start == 1 + 3 * masks
    assert (found.total_clusters, found.md_len) == (1 << 30, 1 << 30)
    last = ClusterIndex(found.total_clusters - 1)
    assert found.cluster_offset(last) == 1024 * TIB - MIB
    assert found.page_offset(PageIndex(found.md_len)) == found.metadata_end


def test_few_metadata_pages_leave_the_cluster_mask_its_own_length() -> None:
    found = computed(size_bytes=TIB, cluster_size=MIB, md_pages=8)
    assert found.used_pages == MaskRegion(1, 1)
    assert found.used_clusters == MaskRegion(2, 33)
    assert found.used_blob_ids == MaskRegion(35, 1)
    assert found.max_growable_size < found.size_bytes


def test_many_metadata_pages_reserve_room_for_the_cluster_mask_to_grow() -> None:
    found = computed(size_bytes=1024 * MIB, md_pages=100_000)
    assert found.used_pages == MaskRegion(1, 4)
    assert found.used_clusters == MaskRegion(5, 1)
    assert found.used_blob_ids == MaskRegion(9, 4)
    assert found.cluster_mask_room == 4


@pytest.mark.parametrize(
    ("changes", "kind", "errno"),
    [
        pytest.param({"cluster_size": 0}, InvalidArgumentError, 22, id="cluster size 0"),
        pytest.param({"cluster_size": 4095}, InvalidArgumentError, 22, id="cluster below a page"),
        pytest.param({"cluster_size": 2048}, InvalidArgumentError, 22, id="cluster of half a page"),
        pytest.param({"cluster_size": 6144}, InvalidArgumentError, 22, id="pages do not fill it"),
        pytest.param({"cluster_size": 1 << 32}, InvalidArgumentError, 22, id="cluster of 4 GiB"),
        pytest.param({"cluster_size": 33554432}, NoSpaceError, 28, id="cluster above the device"),
        pytest.param({"md_pages": 0}, InvalidArgumentError, 22, id="no metadata pages"),
        pytest.param({"md_pages": -1}, InvalidArgumentError, 22, id="less than none"),
        pytest.param({"md_pages": 0xFFFF_FFFF}, InvalidArgumentError, 22, id="2^32-1 pages"),
        pytest.param({"md_pages": 100_000}, NoSpaceError, 12, id="more metadata than device"),
        pytest.param({"page_size": 131072}, InvalidArgumentError, 22, id="page above a cluster"),
        pytest.param({"page_size": 6000}, InvalidArgumentError, 22, id="page size of no power"),
        pytest.param({"page_size": 2048}, InvalidArgumentError, 22, id="page size below 4096"),
        pytest.param({"page_size": 1 << 25}, InvalidArgumentError, 22, id="page size of 32 MiB"),
        pytest.param(
            {"cluster_size": 4096, "md_pages": 4096}, NoSpaceError, 12, id="as much as the device"
        ),
        pytest.param({"io_unit_size": 500}, InvalidArgumentError, 22, id="odd io unit"),
        pytest.param({"io_unit_size": 8192}, InvalidArgumentError, 22, id="io unit above a page"),
        pytest.param({"io_unit_size": 0}, InvalidArgumentError, 22, id="io unit size 0"),
        pytest.param({"size_bytes": 256 * TIB}, InvalidArgumentError, 22, id="2^32 clusters"),
        pytest.param({"size_bytes": 0}, NoSpaceError, 28, id="empty device"),
    ],
)
def test_a_store_that_cannot_be_made_is_refused_with_the_originals_errno(
    changes: dict[str, int], kind: type[BlobstoreError], errno: int
) -> None:
    with pytest.raises(kind) as caught:
        computed(**changes)
    assert type(caught.value) is kind
    assert caught.value.errno == errno


def test_metadata_may_take_the_device_to_its_last_cluster() -> None:
    found = computed(cluster_size=4096, md_pages=4096 - 4)
    assert (found.md_clusters, found.data_clusters) == (4096, 0)
    with pytest.raises(NoSpaceError, match="metadata: 4097 clusters, but the device has 4096"):
        computed(cluster_size=4096, md_pages=4096 - 3)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    page_size = 4096 << draw(st.integers(0, 2))
    cluster_size = page_size * draw(st.integers(1, 300))
    size_bytes = draw(st.integers(cluster_size, cluster_size * (1 << 34)))
    try:
        return Geometry.compute(
            size_bytes=size_bytes,
            cluster_size=cluster_size,
            page_size=page_size,
            io_unit_size=512 << draw(st.integers(0, 3)),
            md_pages=draw(st.none() | st.integers(1, 1 << 33)),
        )
    except (InvalidArgumentError, NoSpaceError):
        reject()


@given(geometries())
def test_every_layout_made_is_accepted_when_it_is_read(geometry: Geometry) -> None:
    page = super_block_of(geometry).encode()
    assert Geometry.of(SuperBlock.decode(page), device_size=geometry.size_bytes) == geometry


@given(geometries())
def test_the_regions_follow_each_other_and_end_within_the_metadata_clusters(
    geometry: Geometry,
) -> None:
    assert geometry.used_pages.start == 1
    assert geometry.used_clusters.start == 1 + geometry.used_pages.length
    room = max(geometry.used_clusters.length, geometry.used_pages.length)
    assert geometry.cluster_mask_room == room
    assert geometry.md_start == geometry.used_blob_ids.start + geometry.used_blob_ids.length
    end_of_clusters = geometry.md_clusters * geometry.cluster_size
    assert geometry.metadata_end <= end_of_clusters <= geometry.size_bytes
    assert geometry.metadata_end > end_of_clusters - geometry.cluster_size


@given(geometries(), st.integers(0, 1 << 60))
def test_a_grown_layout_is_accepted_when_it_is_read_or_has_no_room(
    geometry: Geometry, more: int
) -> None:
    size = geometry.size_bytes + more
    try:
        grown = geometry.grown_to(size)
    except NoSpaceError:
        return
    assert Geometry.of(super_block_of(grown), device_size=size) == grown
    assert (
        replace(grown, size_bytes=geometry.size_bytes, used_clusters=geometry.used_clusters)
        == geometry
    )


def test_growing_changes_the_size_and_the_length_of_the_cluster_mask_only() -> None:
    store = computed(size_bytes=1024 * MIB, md_pages=100_000)
    grown = store.grown_to(4096 * MIB)
    assert grown == replace(store, size_bytes=4096 * MIB, used_clusters=MaskRegion(5, 3))


def test_a_store_may_grow_until_its_cluster_mask_fills_its_room() -> None:
    last = NEW.max_growable_size
    assert NEW.grown_to(last + 65535).total_clusters == (4096 - 5) * 8
    with pytest.raises(NoSpaceError, match=f"can grow to {last}") as caught:
        NEW.grown_to(last + 65536)
    assert caught.value.errno == 28


def test_a_store_does_not_grow_beyond_what_32_bits_can_count() -> None:
    store = computed(size_bytes=MAX_CLUSTERS * 65536)
    assert store.total_clusters == MAX_CLUSTERS
    with pytest.raises(NoSpaceError, match="too many clusters") as caught:
        store.grown_to((MAX_CLUSTERS + 1) * 65536)
    assert caught.value.errno == 28


def test_a_device_that_shrank_is_refused_with_the_originals_errno() -> None:
    with pytest.raises(CorruptError, match="device: 8388608 bytes, but the store has") as caught:
        NEW.grown_to(8 * MIB)
    assert caught.value.errno == 84


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"md_page_size": 5000}, "metadata page size 5000: expected a power", id="p1"),
        pytest.param({"md_page_size": 512}, "metadata page size 512", id="page size too small"),
        pytest.param({"md_page_size": 1 << 25}, "metadata page size", id="page size too large"),
        pytest.param({"io_unit_size": 500}, "io unit size 500 does not divide 4096", id="io unit"),
        pytest.param({"io_unit_size": 8192}, "io unit size 8192", id="io unit above a page"),
        pytest.param({"cluster_size": 0}, "cluster size 0, expected a mult", id="no cluster size"),
        pytest.param({"cluster_size": 6144}, "cluster size 6144", id="cluster of 1.5 pages"),
        pytest.param({"size_bytes": 17 * MIB}, "the device 16777216", id="larger than the device"),
        pytest.param(
            {"used_pages": MaskRegion(0, 1)}, "starts at page 0, before 1", id="on page 0"
        ),
        pytest.param(
            {"used_pages": MaskRegion(1, 0)}, "used page mask is empty", id="no page mask"
        ),
        pytest.param(
            {"used_clusters": MaskRegion(2, 0)}, "cluster mask is empty", id="no clusters"
        ),
        pytest.param(
            {"used_clusters": MaskRegion(1, 1)}, "mask starts at page 1, before 2", id="on"
        ),
        pytest.param(
            {"used_blob_ids": MaskRegion(2, 1)}, "id mask starts at page 2, bef", id="ids"
        ),
        pytest.param({"md_start": 3}, "metadata starts at page 3, before 4", id="metadata on ids"),
        pytest.param({"md_len": 0}, "metadata is empty", id="no metadata"),
        pytest.param({"md_len": 0xFFFF_FFFF}, "metadata ends at", id="metadata past the end"),
        pytest.param({"md_start": 0xFFFF_FFFF}, "metadata ends at", id="starts past the end"),
        pytest.param(
            {"size_bytes": 65536 * 16 + 65535}, "metadata ends at", id="in half a cluster"
        ),
    ],
)
def test_a_super_block_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    super_block = replace(super_block_of(NEW), **changes)
    with pytest.raises(CorruptError, match=f"^super block: .*{message}") as caught:
        Geometry.of(super_block, device_size=16 * MIB)
    assert caught.value.errno == 84


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"used_pages": MaskRegion(1, 3)}, "used page mask of 3", id="pages"),
        pytest.param({"used_clusters": MaskRegion(5, 1)}, "used cluster mask of 1", id="clusters"),
        pytest.param({"used_blob_ids": MaskRegion(9, 3)}, "used blob id mask of 3", id="ids"),
    ],
)
def test_a_mask_too_short_for_its_bits_is_refused(changes: dict[str, Any], message: str) -> None:
    store = computed(size_bytes=4096 * MIB, md_pages=100_000)
    with pytest.raises(CorruptError, match=message):
        Geometry.of(replace(super_block_of(store), **changes), device_size=store.size_bytes)


def test_more_clusters_than_32_bits_can_count_are_refused() -> None:
    size = (MAX_CLUSTERS + 1) * 65536
    super_block = replace(super_block_of(NEW), size_bytes=size)
    with pytest.raises(CorruptError, match=f"super block: {MAX_CLUSTERS + 1} clusters"):
        Geometry.of(super_block, device_size=size)


u32 = st.integers(0, 0xFFFF_FFFF) | st.sampled_from([0, 1, 4096, 65536, LARGEST_PAGE_SIZE])
regions = st.builds(MaskRegion, u32, u32)


@given(st.lists(regions, min_size=3, max_size=3), st.lists(u32, min_size=5, max_size=5), u32)
def test_random_fields_give_a_sound_layout_or_are_refused(
    masks: list[MaskRegion], numbers: list[int], size: int
) -> None:
    super_block = SuperBlock(
        3, True, NO_BLOB, numbers[0], masks[0], masks[1], numbers[1], numbers[2],
        bytes(16), masks[2], size, numbers[3], numbers[4],
    )  # fmt: skip
    try:
        found = Geometry.of(super_block, device_size=1 << 33)
    except CorruptError:
        return
    assert found.metadata_end <= found.size_bytes <= 1 << 33
    assert found.data_clusters >= 0


def test_an_old_store_takes_its_size_from_the_device_and_counts_in_4096_bytes() -> None:
    old = replace(
        super_block_of(NEW),
        version=2,
        used_blob_ids=MaskRegion(0, 0),
        size_bytes=0,
        io_unit_size=0,
        md_page_size=0,
    )
    found = Geometry.of(old, device_size=16 * MIB)
    assert found == replace(NEW, used_blob_ids=MaskRegion(0, 0))
    # Nothing but the metadata follows the cluster mask then.
    assert found.cluster_mask_room == 2


def test_blob_ids_name_root_pages_of_the_region() -> None:
    assert blob_id_of(PageIndex(7)) == 0x1_0000_0007
    assert root_of(BlobId(0x1_0000_0007)) == 7
    assert NEW.names_root(blob_id_of(PageIndex(0)))
    assert NEW.names_root(blob_id_of(PageIndex(255)))
    for blob_id in (0, 7, 0xFFFF_FFFF, blob_id_of(PageIndex(256)), NO_BLOB):
        assert not NEW.names_root(blob_id)


def test_offsets_are_bytes_from_the_devices_start() -> None:
    assert NEW.page_offset(PageIndex(0)) == 4 * 4096
    assert NEW.cluster_offset(ClusterIndex(17)) == 17 * 65536
    assert NEW.region_offset(NEW.used_blob_ids) == 3 * 4096
    assert NEW.region_bytes(MaskRegion(3, 5)) == 5 * 4096
