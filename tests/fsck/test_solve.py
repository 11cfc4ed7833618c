"""Torn super blocks: the checksum tells which version it was made for."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import CorruptError
from blobstore.format.geometry import BLOB_ID_BASE, Geometry
from blobstore.format.mask import mask_pages
from blobstore.format.super_block import (
    NO_BLOB,
    SUPER_BLOCK_FIELDS,
    SUPER_BLOCK_SIZE,
    MaskRegion,
    SuperBlock,
)
from blobstore.fsck.checksum_solver import solve_one_word, solve_super_block
from blobstore.units import BlobId
from tests.golden.images import IMAGE_NAMES, manifest
from tests.shared import shared

SIZE = 16 << 20
ROOTS = [BlobId(BLOB_ID_BASE + root) for root in range(16)]
LAYOUT = Geometry.compute(
    size_bytes=SIZE, cluster_size=65536, page_size=4096, io_unit_size=512, md_pages=None
)
BLOCK = SuperBlock(
    3, True, ROOTS[3], LAYOUT.cluster_size, LAYOUT.used_pages, LAYOUT.used_clusters,
    LAYOUT.md_start, LAYOUT.md_len, b"TORN".ljust(16, b"\0"), LAYOUT.used_blob_ids, SIZE, 512, 4096,
)  # fmt: skip


def torn(first: SuperBlock, last: SuperBlock, sectors: int = 1) -> bytes:
    """Return the first sectors of one super block and the other sectors of another."""
    return first.encode()[: 512 * sectors] + last.encode()[512 * sectors :]


def solved(data: bytes, *, device_size: int = SIZE) -> SuperBlock | None:
    return solve_super_block(data, device_size=device_size, roots=ROOTS)


def written_next(block: SuperBlock) -> Iterator[SuperBlock]:
    """Yield what the original may write over a super block, or may have had there before."""
    for super_blob in dict.fromkeys([block.super_blob, NO_BLOB, ROOTS[0], ROOTS[2]]):
        for clean in (True, False):
            other = block.with_changes(clean=clean, super_blob=super_blob)
            if other != block:
                yield other


def first_page(name: str) -> bytes:
    """Return the beginning of an image without unpacking all of it."""
    packed = (shared("golden") / f"{name}.img.zst").read_bytes()
    with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        return reader.read(SUPER_BLOCK_SIZE)


def golden_super_blocks() -> dict[bytes, int]:
    """Return all different super blocks of the original, with the size of their device."""
    found: dict[bytes, int] = {}
    for name in IMAGE_NAMES:
        size = manifest(name)["geometry"]["size"]
        page = first_page(name)
        try:
            SuperBlock.decode(page)
        except CorruptError:
            continue
        if not name.startswith("bad_super"):
            found[page] = size
    return found


def test_every_tear_between_two_states_of_the_originals_super_blocks_is_solved() -> None:
    blocks = golden_super_blocks()
    assert len(blocks) >= 10
    count = 0
    for page, size in blocks.items():
        block = SuperBlock.decode(page)
        for other in written_next(block):
            for first, last in ((block, other), (other, block)):
                for sectors in (1, 7):
                    data = torn(first, last, sectors)
                    assert solved(data, device_size=size) == last
                    count += 1
    assert count >= 200


def test_an_image_whose_checksum_was_erased_is_not_solved() -> None:
    page = first_page("bad_super_badcrc_clean")
    assert solved(page) is None


@pytest.mark.parametrize("old_size", [0, SIZE, SIZE + 12288])
def test_a_tear_while_the_store_grew_is_solved(old_size: int) -> None:
    device_size = 64 << 20
    new = BLOCK.with_changes(size_bytes=device_size, clean=False, super_blob=NO_BLOB)
    old = BLOCK.with_changes(size_bytes=old_size)
    assert solved(torn(old, new), device_size=device_size) == new
    if old_size == 0:
        assert solved(torn(new, old), device_size=device_size) == old


def test_a_tear_while_the_cluster_mask_grew_is_solved() -> None:
    many = replace(
        BLOCK,
        used_pages=MaskRegion(1, 4),
        used_clusters=MaskRegion(5, 1),
        used_blob_ids=MaskRegion(9, 4),
        md_start=13,
        md_len=100_000,
        size_bytes=1 << 30,
    )
    device_size = 4 << 30
    length = mask_pages(device_size // many.cluster_size, 4096)
    assert length > 1
    new = many.with_changes(size_bytes=device_size, used_clusters=MaskRegion(5, length))
    assert solved(torn(many, new), device_size=device_size) == new


def test_a_size_rounded_to_clusters_is_tried() -> None:
    device_size = SIZE + 12345
    new = BLOCK.with_changes(size_bytes=SIZE)
    old = BLOCK.with_changes(size_bytes=device_size)
    assert solved(torn(old, new), device_size=device_size) == new


def test_a_whole_super_block_is_its_own_solution() -> None:
    assert solved(BLOCK.encode()) == BLOCK


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(SUPER_BLOCK_SIZE), id="zeroes"),
        pytest.param(b"SPDKBLOB" + bytes(SUPER_BLOCK_SIZE - 8), id="no version"),
        pytest.param(torn(replace(BLOCK, cluster_size=0), BLOCK), id="no cluster size"),
        pytest.param(torn(replace(BLOCK, md_start=9), BLOCK), id="a field that never changes"),
    ],
)
def test_what_no_write_of_the_original_leaves_is_not_solved(data: bytes) -> None:
    assert solved(data) is None


def test_a_solution_that_makes_no_sense_is_none() -> None:
    nonsense = replace(BLOCK, md_len=0)
    assert solved(torn(nonsense, nonsense.with_changes(clean=False))) is None


def test_ten_thousand_roots_take_less_than_a_second() -> None:
    roots = [BlobId(BLOB_ID_BASE + root) for root in range(0, 1_000_000, 100)]
    new = BLOCK.with_changes(super_blob=roots[-1], clean=False)
    start = time.perf_counter()
    found = solve_super_block(torn(BLOCK, new), device_size=SIZE, roots=roots)
    assert time.perf_counter() - start < 1
    assert found == new


@given(st.integers(0, 23), st.integers(1, 0xFFFF_FFFF))
def test_any_one_word_that_was_changed_is_found_again(word: int, flipped: int) -> None:
    page = bytearray(BLOCK.encode())
    page[4 * word : 4 * word + 4] = (
        int.from_bytes(page[4 * word : 4 * word + 4], "little") ^ flipped
    ).to_bytes(4, "little")
    found = list(solve_one_word(bytes(page), device_size=SIZE))
    is_checked = word not in (5, 6, 14, 15, 16, 17, 20, 21)  # super blob, type, size
    assert found == ([BLOCK] if is_checked else [])


def test_the_place_of_a_mask_that_is_not_there_is_never_the_solution() -> None:
    old = replace(BLOCK, version=2, used_blob_ids=MaskRegion(0, 0))
    page = old.encode()
    wrong = page[:56] + b"another type" + page[68:]
    assert len(SUPER_BLOCK_FIELDS.unpack_from(wrong)) == 18
    assert list(solve_one_word(wrong, device_size=SIZE)) == []
