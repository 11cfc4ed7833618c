"""The layout of a store whose super block is lost: from roots, masks and content, or from hints."""

from pathlib import Path
from time import process_time

import pytest

from blobstore import Blobstore, CorruptError, InvalidArgumentError, Rescue
from blobstore.format.checksum import crc32c
from blobstore.format.repair_mark import MARK_OFFSET, RepairMark
from blobstore.format.super_block import SUPER_BLOCK_SIZE
from blobstore.units import KIB, MIB, format_size
from tests.proof.lost_super_block import KeptDevice

CONTENT = b"what must not be lost"


def made(
    *,
    size: int = 16 * MIB,
    cluster_size: int = 64 * KIB,
    md_pages: int | None = None,
    md_page_size: int = 4096,
    clean: bool = False,
    content: bytes = CONTENT,
    fill: int = 0,
) -> KeptDevice:
    """Make a store with two blobs; nothing is written to them if there is no content."""
    device = KeptDevice(bytes([fill]) * size)
    store = Blobstore.create(
        device,
        cluster_size=cluster_size,
        md_pages=md_pages,
        md_page_size=md_page_size,
        clear="none" if fill else "unmap",
        overwrite=True,
    )
    for number in range(2):
        with store.create_blob(2 * cluster_size, xattrs={"number": bytes([number])}) as blob:
            if content:
                blob.write(content.ljust(cluster_size, b"\1"))
                blob.write(content.ljust(cluster_size, b"\2"), cluster_size)
    if clean:
        store.unload()
    return device


def lose(device: KeptDevice) -> KeptDevice:
    """Overwrite the super block with what is none."""
    device.write(0, [b"\xa5" * SUPER_BLOCK_SIZE])
    return device


def assert_reads_content(rescue: Rescue, cluster_size: int) -> None:
    blobs = list(rescue.blobs())
    assert [blob.xattrs for blob in blobs] == [{"number": b"\0"}, {"number": b"\1"}]
    for blob in blobs:
        assert (blob.size, blob.unreadable()) == (2 * cluster_size, [])
        assert blob.read(len(CONTENT), cluster_size) == CONTENT


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "dirty"])
@pytest.mark.parametrize("md_page_size", [4096, 16384])
@pytest.mark.parametrize("cluster_size", [32 * KIB, 64 * KIB, 192 * KIB, MIB, 4 * MIB])
def test_a_store_of_any_geometry_is_read_without_its_super_block(
    cluster_size: int, md_page_size: int, clean: bool
) -> None:
    size = 32 * MIB + 12288
    made_store = made(size=size, cluster_size=cluster_size, md_page_size=md_page_size, clean=clean)
    with Rescue.open(lose(made_store)) as rescue:
        assert_reads_content(rescue, cluster_size)
        start, pages, clusters, looked_at = rescue.assumptions
    assert start.startswith("metadata: begins at page 4 of ")
    assert start.endswith("as 2 root pages say")
    assert pages.startswith("metadata: ")
    assert clusters.startswith("cluster size: ")
    assert looked_at == f"search: the first {format_size(size)} of the device were looked at"


@pytest.mark.parametrize("size", [5 * MIB, 9 * MIB + 4096])
def test_a_device_that_was_cut_short_is_read_without_its_super_block(size: int) -> None:
    device = made(size=16 * MIB)
    with Rescue.open(lose(KeptDevice(device.read(0, size)))) as rescue:
        assert_reads_content(rescue, 64 * KIB)


def test_a_store_of_which_nothing_tells_the_cluster_size_asks_for_it() -> None:
    device = lose(made(size=64 * MIB, cluster_size=MIB, content=b""))
    question = r"2 root pages.*possible: .* to 8 MiB\): cluster_size \(--cluster-size\) says"
    with pytest.raises(CorruptError, match=question):
        Rescue.open(device)
    with Rescue.open(device, cluster_size="1MiB") as rescue:
        assert [blob.size for blob in rescue.blobs()] == [2 * MIB, 2 * MIB]
        assert "cluster size: 1 MiB, as given" in rescue.assumptions


def test_on_a_device_full_of_old_data_the_lowest_cluster_tells_the_cluster_size() -> None:
    with Rescue.open(lose(made(fill=0xDD))) as rescue:
        assert_reads_content(rescue, 64 * KIB)
        assert "lowest cluster" in rescue.assumptions[2]


def test_what_is_given_is_believed_whatever_the_super_block_says() -> None:
    device = made(clean=True)
    with Rescue.open(device, cluster_size=32 * KIB, md_start=4, md_pages=100) as rescue:
        assert [blob.size for blob in rescue.blobs()] == [64 * KIB, 64 * KIB]
        assert rescue.assumptions[:3] == (
            "metadata: begins at page 4 of 4096 bytes, as given",
            "metadata: 100 pages, as given",
            "cluster size: 32 KiB, as given",
        )
    with Rescue.open(device, cluster_size=64 * KIB) as rescue:
        assert_reads_content(rescue, 64 * KIB)
        assert rescue.assumptions == ()


def test_a_store_within_a_blob_is_not_taken_for_the_store() -> None:
    inner = made(size=4 * MIB, cluster_size=16 * KIB, clean=True)
    outer = KeptDevice(bytes(16 * MIB))
    store = Blobstore.create(outer, cluster_size=MIB)
    with store.create_blob(4 * MIB, xattrs={"name": b"outer"}) as blob:
        blob.write(inner.read(0, 4 * MIB))
    store.close()
    with Rescue.open(lose(outer)) as rescue:
        (found,) = rescue.blobs()
        assert found.xattrs == {"name": b"outer"}
        assert found.read(4 * MIB) == inner.read(0, 4 * MIB)


def test_damaged_pages_do_not_make_a_right_super_block_wrong() -> None:
    device = made(clean=True)
    page = bytearray(device.read(5 * 4096, 4096))
    page[-1] ^= 1
    device.write(5 * 4096, [page])
    with Rescue.open(device) as rescue:
        assert rescue.assumptions == ()
        assert rescue.blob(0x1_0000_0002).read(len(CONTENT), 64 * KIB) == CONTENT


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "dirty"])
def test_a_super_block_that_a_repair_marked_is_read_as_it_stands(clean: bool) -> None:
    device = made(clean=clean)
    page = device.read(0, SUPER_BLOCK_SIZE)
    head = page[:MARK_OFFSET]
    crc = crc32c(head)
    mark = RepairMark(False, bytes(16), b"", int.from_bytes(page[-4:], "little"), (crc, crc))
    device.write(0, [head + mark.encode(head)])
    with Rescue.open(device) as rescue:
        assert_reads_content(rescue, 64 * KIB)
        assert rescue.assumptions == ()
        assert [finding.invariant for finding in rescue.findings] == [46]


def test_the_super_block_of_another_store_is_not_believed() -> None:
    device = made()
    other = made(size=8 * MIB, cluster_size=16 * KIB)
    device.write(0, [other.read(0, SUPER_BLOCK_SIZE)])
    with Rescue.open(device) as rescue:
        assert_reads_content(rescue, 64 * KIB)
        assert "not this store's" in rescue.assumptions[0]


def test_a_huge_sparse_file_takes_no_longer_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.img"
    with Blobstore.create(path, size="100GiB", cluster_size="1MiB") as store:
        for number in range(2):
            with store.create_blob(2 * MIB, xattrs={"number": bytes([number])}) as blob:
                blob.write(CONTENT, MIB)
    with path.open("r+b") as file:
        file.write(bytes(SUPER_BLOCK_SIZE))
    begin = process_time()
    with Rescue.open(path) as rescue:
        assert_reads_content(rescue, MIB)
        assert "the first 64 MiB of" in rescue.assumptions[3]
    assert process_time() - begin < 10


def test_what_no_store_can_have_is_refused() -> None:
    device = made()
    for size in (0, 1000, 1 << 32, "3KiB"):
        with pytest.raises(InvalidArgumentError, match="cluster_size: expected a multiple of 4096"):
            Rescue.open(device, cluster_size=size)
    with pytest.raises(InvalidArgumentError, match="md_start: expected at least 1, got 0"):
        Rescue.open(device, md_start=0)
    with pytest.raises(InvalidArgumentError, match="md_pages: expected at least 1, got -1"):
        Rescue.open(device, md_pages=-1)


def test_hints_that_no_root_fits_find_nothing_and_say_so() -> None:
    with pytest.raises(CorruptError, match="no root page in the first 8 MiB fits what was given"):
        Rescue.open(lose(KeptDevice(bytes(8 * MIB))), cluster_size=65536)
    with Rescue.open(made(), md_start=100, md_pages=8, cluster_size=65536) as rescue:
        assert list(rescue.blobs()) == []
