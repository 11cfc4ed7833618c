"""The dump against the text the original's dump printed for every image."""

import pytest

from blobstore.format.dump_text import DumpPlan, dump_mask, dump_page, dump_super_block
from blobstore.format.super_block import SUPER_BLOCK_SIZE, MaskRegion
from blobstore.units import PageIndex
from tests.golden.images import IMAGE_NAMES, golden_dump, load_image, manifest

COMPLETE = [name for name in IMAGE_NAMES if manifest(name)["dump_rc"] == 0]
NO_SUPER_BLOCK = [name for name in IMAGE_NAMES if manifest(name)["dump_rc"] == -84]
ABORTED = [name for name in IMAGE_NAMES if manifest(name)["dump_rc"] == "exit -6"]


def dump(image: bytes, *, block_size: int) -> bytes:
    """Do what a caller of the dump does, on an image in memory."""
    head = dump_super_block(image[:SUPER_BLOCK_SIZE])
    plan = DumpPlan.of(image[:SUPER_BLOCK_SIZE])
    if plan is None:
        return head

    def mask_at(region: MaskRegion) -> bytes:
        offset, length = plan.mask_range(region, device_size=len(image))
        return image[offset : offset + length]

    page_count = plan.page_count(len(image))
    used_pages = dump_mask(mask_at(plan.used_pages), bit_count=page_count)
    used_ids = dump_mask(mask_at(plan.used_blob_ids), bit_count=page_count)
    parts = [head]
    for index in map(PageIndex, range(page_count)):
        offset = plan.page_offset(index)
        parts.append(
            dump_page(
                index,
                image[offset : offset + plan.page_size],
                plan=plan,
                block_size=block_size,
                in_used_pages=bool(used_pages[index]),
                in_used_ids=bool(used_ids[index]),
            )
        )
    return b"".join(parts)


def dump_of(name: str) -> bytes:
    return dump(load_image(name), block_size=manifest(name)["geometry"]["blocklen"])


def test_every_image_is_in_one_of_three_groups() -> None:
    assert (len(COMPLETE), len(NO_SUPER_BLOCK), len(ABORTED)) == (258, 5, 8)
    assert sorted(COMPLETE + NO_SUPER_BLOCK + ABORTED) == IMAGE_NAMES


@pytest.mark.parametrize("name", COMPLETE)
def test_the_dump_is_the_originals_byte_for_byte(name: str) -> None:
    assert dump_of(name) == golden_dump(name)


@pytest.mark.parametrize("name", NO_SUPER_BLOCK)
def test_without_a_super_block_the_dump_is_the_originals_one_line(name: str) -> None:
    text = dump_of(name)
    assert text == golden_dump(name)
    assert text.count(b"\n") == 1


# Where the super block names no page size the original aborts before it has printed anything.
@pytest.mark.parametrize("name", ABORTED)
def test_an_old_store_on_which_the_original_aborts_is_dumped_like_a_new_one(name: str) -> None:
    assert golden_dump(name) == b""
    text = dump_of(name)
    assert text.startswith(b'Signature: "SPDKBLOB" (OK)\nVersion: ')
    roots = {blob["id"] for blob in manifest(name)["expected_after_load"]["state"]["blobs"]}
    assert roots
    for blob_id in roots:
        assert f"Blob ID: {blob_id:#x}\nSequence: 0\n".encode() in text
