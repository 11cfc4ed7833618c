"""Rescue without a super block: every golden image with page 0 gone, or that of another store.

``python -m tests.proof.lost_super_block`` tries every image with every other store's super block
and with many random pages, and prints what was read.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from hashlib import sha256
from typing import Final

from blobstore import (
    Blob,
    BlobId,
    Blobstore,
    BlobstoreError,
    CorruptError,
    MemoryDevice,
    Rescue,
    RescuedBlob,
)
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.units import MIB
from tests.golden.images import IMAGE_NAMES, load_image
from tests.replay import pieces_of


class Damage(StrEnum):
    """What page 0 holds in the place of the store's super block."""

    ZEROED = "zeroed"
    RANDOM = "random"
    OTHER_STORE = "other store"


_NOTHING_WRITTEN: Final = (
    "nothing was written to any cluster and there are no masks, so nothing tells the cluster size"
)
_OTHER_FITS: Final = "all that lies on the device fits the other store's super block as well"

NEEDS_CLUSTER_SIZE: Final = {
    "full_dirty": _NOTHING_WRITTEN,
    "grow_dirty_refused": _NOTHING_WRITTEN,
    "md_full_dirty": _NOTHING_WRITTEN,
    "super_deleted_dirty": _NOTHING_WRITTEN,
}
"""Images of which rescue asks for the cluster size, and why it cannot be known."""

OTHER_FITS: Final = {"full_dirty": _OTHER_FITS, "grow_dirty_refused": _OTHER_FITS}
"""Images on which the super block of the other store that they get is believed, and why."""

_OTHER_STORES: Final = (
    "empty_bl4096_cs1024k_clean",
    "empty_nobstype_mdpages_clean",
    "empty_bl512_cs64k_clean",
    "lvolstore_bl4096_clean",
    "mix_bl4096_cs64k_clean",
    "mix_bl512_cs256k_dirty",
    "phys16k_clean",
    "v1_bl4096_clean",
    "cbug_cs48k_default_load_clean",
)


class KeptDevice(MemoryDevice):
    """An image whose page 0 can be replaced, and that outlives the stores that are opened on it."""

    def __init__(self, image: bytes) -> None:
        super().__init__(len(image))
        for at, piece in pieces_of(image):
            self._content[at : at + len(piece)] = piece

    def close(self) -> None:
        """Keep the content."""


@dataclass(slots=True)
class Image:
    """A golden image, and the hash of every blob that `export` reads from the whole of it."""

    name: str
    device: KeptDevice
    super_block: SuperBlock
    hashes: dict[BlobId, str]
    read_before: dict[tuple[object, ...], str] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str) -> "Image":
        """Unpack an image, and read all of its blobs: as usual, or by rescue where that fails."""
        content = load_image(name)
        device = KeptDevice(content)
        page = content[:SUPER_BLOCK_SIZE]
        image = cls(name, device, SuperBlock.as_it_stands(page), _hashes_of(device))
        with suppress(CorruptError):
            image.hashes = image.rescued(page) | image.hashes
        return image

    def damaged(self, damage: Damage, number: int = 0) -> bytes:
        """Return what page 0 is replaced by; the same name and number give the same page."""
        chance = random.Random(f"{self.name} {damage} {number}")
        if damage is Damage.ZEROED:
            return bytes(SUPER_BLOCK_SIZE)
        if damage is Damage.RANDOM:
            return chance.randbytes(SUPER_BLOCK_SIZE)
        others = [page for page in _other_pages() if self._is_other(page)]
        return others[number % len(others)] if number else chance.choice(others)

    def _is_other(self, page: bytes) -> bool:
        block = SuperBlock.as_it_stands(page)
        return _layout(block) != _layout(self.super_block)

    def rescued(self, page: bytes, cluster_size: int | None = None) -> dict[BlobId, str]:
        """Return the hash of every blob that rescue reads whole with this page 0."""
        self.device.write(0, [page])
        with Rescue.open(self.device, cluster_size=cluster_size) as rescue:
            return {blob.id: self._hash(blob) for blob in rescue.blobs() if not blob.unreadable()}

    def _hash(self, blob: RescuedBlob) -> str:
        """Hash a blob; one that lies where one was hashed before has the same content."""
        parts = (blob.size, *blob.parts())
        if parts not in self.read_before:
            self.read_before[parts] = _hash(blob)
        return self.read_before[parts]


@cache
def _other_pages() -> list[bytes]:
    return [load_image(name)[:SUPER_BLOCK_SIZE] for name in _OTHER_STORES]


def _layout(block: SuperBlock) -> tuple[int, ...]:
    return block.cluster_size, block.md_start, block.md_len, block.md_page_size or 4096


def _hashes_of(device: MemoryDevice) -> dict[BlobId, str]:
    """Return the hash of every blob that opens and can be read."""
    found: dict[BlobId, str] = {}
    with (
        suppress(CorruptError),
        Blobstore.open(device, read_only=True, force=True) as store,
    ):
        for blob_id in store.blob_ids():
            with suppress(BlobstoreError), store.open_blob(blob_id) as blob:
                found[blob_id] = _hash(blob)
    return found


def _hash(blob: Blob | RescuedBlob) -> str:
    digest = sha256()
    for at in range(0, blob.size, MIB):
        digest.update(blob.read(min(MIB, blob.size - at), at))
    return digest.hexdigest()


# The long form


def _outcome(image: Image, page: bytes) -> str:
    """Tell how a rescue ends, without the cluster size at first."""
    if not image.hashes:
        return "nothing to read"
    try:
        found = image.rescued(page)
    except CorruptError:
        if not image.hashes.items() <= image.rescued(page, image.super_block.cluster_size).items():
            return "WRONG with the cluster size"
        return "asks for the cluster size"
    if image.hashes.items() <= found.items():
        return "all read"
    given = image.rescued(page, image.super_block.cluster_size)
    return "the other fits" if image.hashes.items() <= given.items() else "WRONG"


def _tries() -> Iterator[tuple[Damage, int]]:
    yield Damage.ZEROED, 0
    yield from ((Damage.RANDOM, number) for number in range(3))
    yield from ((Damage.OTHER_STORE, number) for number in range(1, len(_OTHER_STORES) + 1))


def main() -> int:
    """Try every image with every damage; print how many end how, and which are not all read."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in IMAGE_NAMES:
        image = Image.load(name)
        for damage, number in _tries():
            outcome = _outcome(image, image.damaged(damage, number))
            counts[damage.value, outcome] += 1
            if outcome not in ("all read", "nothing to read"):
                print(f"{name}, {damage} {number}: {outcome}")
    for (damage_name, outcome), count in sorted(counts.items()):
        print(f"{count:6} {damage_name}: {outcome}")
    return int(any("WRONG" in outcome for _damage, outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
