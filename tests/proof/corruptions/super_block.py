"""Broken super blocks: invariants 1 to 9, and devices that are too short."""

from blobstore.format.checksum import crc32c
from blobstore.format.geometry import blob_id_of
from blobstore.format.repair_mark import MARK_OFFSET, UNDO_ID_SIZE, RepairMark
from blobstore.format.super_block import SUPER_BLOCK_SIZE
from blobstore.fsck.finding import Severity
from tests.proof.corruptions.catalogue import Place, corruption
from tests.proof.corruptions.image import StoreImage

_CLEAN_AT, _SUPER_BLOB_AT, _CLUSTER_SIZE_AT = 16, 20, 28
_PAGE_MASK_AT, _CLUSTER_MASK_AT, _ID_MASK_AT = 32, 40, 72
_MD_START_AT, _MD_LEN_AT, _TYPE_AT, _SIZE_AT = 48, 52, 56, 80
_IO_UNIT_AT, _PAGE_SIZE_AT = 88, 92


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


@corruption(1)
def _another_signature(image: StoreImage) -> None:
    image.patch_super_block(0, b"SPDKBLOC")


@corruption(1)
def _version_from_the_future(image: StoreImage) -> None:
    image.patch_super_block(8, _u32(4))


@corruption(1)
def _version_zero(image: StoreImage) -> None:
    image.patch_super_block(8, _u32(0))


@corruption(1)
def _another_super_block_length(image: StoreImage) -> None:
    image.patch_super_block(12, _u32(512))


@corruption(1)
def _neither_clean_nor_dirty(image: StoreImage) -> None:
    image.patch_super_block(_CLEAN_AT, _u32(2))


@corruption(1, mode=None)
def _device_shorter_than_a_super_block(image: StoreImage) -> None:
    del image.data[512:]


@corruption(1)
def _super_block_of_zeroes(image: StoreImage) -> None:
    image.data[:SUPER_BLOCK_SIZE] = bytes(SUPER_BLOCK_SIZE)


@corruption(2)
def _super_block_with_a_flipped_bit(image: StoreImage) -> None:
    image.data[2000] ^= 1


@corruption(2, mode="safe")
def _super_block_torn_while_it_became_dirty(image: StoreImage) -> None:
    image.data[_CLEAN_AT] = 0


@corruption(2, mode="safe")
def _super_block_torn_while_the_super_blob_was_set(image: StoreImage) -> None:
    image.data[_SUPER_BLOB_AT : _SUPER_BLOB_AT + 8] = _u64(image.names["thick"])


@corruption(2, mode="safe")
def _super_block_torn_while_it_grew(image: StoreImage) -> None:
    """The last sector is already the new one, the size still the old one."""
    old = bytes(image.data[_SIZE_AT : _SIZE_AT + 8])
    image.data.extend(bytes(2 * image.geometry.cluster_size))
    image.patch_super_block(_SIZE_AT, _u64(len(image.data)))
    image.data[_SIZE_AT : _SIZE_AT + 8] = old


@corruption(2, 3)
def _cluster_size_lost_under_its_checksum(image: StoreImage) -> None:
    image.data[_CLUSTER_SIZE_AT : _CLUSTER_SIZE_AT + 4] = bytes(4)


@corruption(2, 6)
def _metadata_start_lost_under_its_checksum(image: StoreImage) -> None:
    image.data[_MD_START_AT : _MD_START_AT + 4] = bytes(4)


@corruption(2, 4)
def _page_size_changed_under_its_checksum(image: StoreImage) -> None:
    image.data[_PAGE_SIZE_AT + 1] ^= 1


@corruption(3)
def _clusters_of_no_size(image: StoreImage) -> None:
    image.patch_super_block(_CLUSTER_SIZE_AT, _u32(0))


@corruption(3)
def _clusters_of_a_page_and_a_half(image: StoreImage) -> None:
    image.patch_super_block(_CLUSTER_SIZE_AT, _u32(6144))


@corruption(4)
def _pages_of_3000_bytes(image: StoreImage) -> None:
    image.patch_super_block(_PAGE_SIZE_AT, _u32(3000))


@corruption(4)
def _io_units_that_divide_no_page(image: StoreImage) -> None:
    image.patch_super_block(_IO_UNIT_AT, _u32(513))


@corruption(5)
def _store_larger_than_its_device(image: StoreImage) -> None:
    image.patch_super_block(_SIZE_AT, _u64(len(image.data) + 1))


@corruption(5)
def _device_cut_by_a_byte_less_than_a_cluster(image: StoreImage) -> None:
    del image.data[len(image.data) - image.geometry.cluster_size + 512 :]


@corruption(5, mode=None)
def _device_cut_to_its_metadata(image: StoreImage) -> None:
    del image.data[image.geometry.metadata_end :]


@corruption(6)
def _masks_that_overlap(image: StoreImage) -> None:
    start = image.geometry.used_pages.start
    image.patch_super_block(_CLUSTER_MASK_AT, _u32(start))


@corruption(6)
def _metadata_over_a_mask(image: StoreImage) -> None:
    image.patch_super_block(_MD_START_AT, _u32(image.geometry.used_blob_ids.start))


@corruption(6)
def _metadata_beyond_the_device(image: StoreImage) -> None:
    image.patch_super_block(_MD_START_AT, _u32(len(image.data) // image.geometry.page_size))


@corruption(6)
def _metadata_that_wraps_around_in_32_bits(image: StoreImage) -> None:
    image.patch_super_block(_MD_START_AT, _u32(0xFFFF_FFF0) + _u32(0x20))


@corruption(6)
def _mask_over_the_super_block(image: StoreImage) -> None:
    image.patch_super_block(_PAGE_MASK_AT, _u32(0))


@corruption(6, 7)
def _mask_without_a_page(image: StoreImage) -> None:
    image.patch_super_block(_CLUSTER_MASK_AT + 4, _u32(0))


@corruption(7)
def _metadata_that_ends_in_half_a_cluster(image: StoreImage) -> None:
    """The store ends with its metadata, which takes one cluster more than there are."""
    image.patch_super_block(_SIZE_AT, _u64(image.geometry.metadata_end))


@corruption(8, mode=None, severity=Severity.NOTE)
def _super_blob_that_is_gone(image: StoreImage) -> None:
    image.patch_super_block(_SUPER_BLOB_AT, _u64(blob_id_of(image.free_pages[0])))


@corruption(8, mode=None, severity=Severity.NOTE)
def _super_blob_outside_the_metadata(image: StoreImage) -> None:
    image.patch_super_block(_SUPER_BLOB_AT, _u64(77))


@corruption(8, mode=None, severity=Severity.NOTE)
def _super_blob_that_is_a_chain_page(image: StoreImage) -> None:
    chained = image.chain("attributed")[1]
    image.patch_super_block(_SUPER_BLOB_AT, _u64(blob_id_of(chained)))


@corruption(9, mode=None, severity=Severity.NOTE)
def _type_that_is_no_text(image: StoreImage) -> Place:
    image.patch_super_block(_TYPE_AT, b"\x01\xff\0more".ljust(16, b"\xfe"))
    return Place()


@corruption(46)
def _repair_that_was_cut_off(image: StoreImage) -> None:
    _put_mark(image, is_undo=False)


@corruption(46, dirty=True)
def _undo_that_was_cut_off(image: StoreImage) -> None:
    _put_mark(image, is_undo=True)


def _put_mark(image: StoreImage, *, is_undo: bool) -> None:
    """Leave the store as a repair does that is killed after its first write."""
    head, page_crc = bytes(image.data[:MARK_OFFSET]), image.data[SUPER_BLOCK_SIZE - 4 :][:4]
    mark = RepairMark(
        is_undo=is_undo,
        undo_id=bytes(UNDO_ID_SIZE),
        undo_name=b"gone.undo-1",
        page_crc=int.from_bytes(page_crc, "little"),
        head_crcs=(crc32c(head), 0),
    )
    image.data[MARK_OFFSET:SUPER_BLOCK_SIZE] = mark.encode(head)
