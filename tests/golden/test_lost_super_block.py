"""What is read of a whole image is read as well when its super block is gone, or another's."""

from functools import lru_cache

import pytest

from blobstore import CorruptError
from tests import matrix
from tests.golden.images import IMAGE_NAMES
from tests.proof.lost_super_block import NEEDS_CLUSTER_SIZE, OTHER_FITS, Damage, Image


@lru_cache(maxsize=1)
def image_of(name: str) -> Image:
    return Image.load(name)


@matrix.in_turn(
    ("name", "damage"),
    {name: name for name in IMAGE_NAMES},
    {damage.value: damage for damage in Damage},
    whole={*NEEDS_CLUSTER_SIZE, *OTHER_FITS},
)
def test_without_its_super_block_every_blob_of_an_image_is_found_and_read(
    name: str, damage: Damage
) -> None:
    image = image_of(name)
    if not image.hashes:
        return
    page = image.damaged(damage)
    size = image.super_block.cluster_size
    if damage is Damage.OTHER_STORE and name in OTHER_FITS:
        assert not image.hashes.items() <= image.rescued(page).items()
    elif name in NEEDS_CLUSTER_SIZE:
        with pytest.raises(CorruptError, match=r"root pages? found.*\(--cluster-size\) says it"):
            image.rescued(page)
    else:
        assert image.hashes.items() <= image.rescued(page).items()
        return
    assert image.hashes.items() <= image.rescued(page, size).items()


def test_most_images_need_no_cluster_size_to_be_given() -> None:
    assert len(NEEDS_CLUSTER_SIZE) <= 4
    assert set(NEEDS_CLUSTER_SIZE) | set(OTHER_FITS) <= set(IMAGE_NAMES)
