"""What is seen of blobs all at once is what following each of them shows, on damaged stores too."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest

from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError
from blobstore.format.geometry import blob_id_of
from blobstore.fsck.examine import examine
from blobstore.metadata import relation_scan
from blobstore.metadata.batch_decoding import BatchDecoder
from blobstore.metadata.load_store import load
from blobstore.metadata.page_arrays import Chunk, Flagged, Numbers
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.units import PageIndex
from tests.metadata.shapes import SHAPES
from tests.proof.forge import Forge, clone_of, extents, flags, runs, table, xattr
from tests.proof.fuzz_target import seeds
from tests.proof.mutate import SmallImage, mutated

SEEDS: Final = seeds()
CHANGES: Final = 9
MANY: Final = 1 << 20


def nothing_is_decoded(
    _decoder: BatchDecoder, _chunk: Chunk, rows: Numbers, *, first: int
) -> Flagged:
    """Stand in for batch decoding that takes nothing, so that every blob is read."""
    del first
    return np.zeros(len(rows), dtype=np.bool_)


def state_of(store: StoreState) -> dict[str, Any]:
    plan = store.recovery_plan
    return {
        "pages": store.pages.used,
        "clusters": store.clusters.used,
        "ids": store.used_ids,
        "clones": dict(store.clones.all()),
        "errors": {blob_id: error.message for blob_id, error in store.errors.items()},
        "deleted": sorted(plan.deleted),
        "copies": sorted(plan.copies),
        "restored": plan.restored,
        "changed": [
            (blob.blob_id, blob.flags, blob.clusters.allocated()) for blob in plan.changed.values()
        ],
    }


def loaded(image: SmallImage, *, recovered: bool) -> object:
    device = image.device(read_only=True)
    traits = DeviceTraits(device.size_bytes, atomic_write_size=device.atomic_write_size)
    try:
        return state_of(BlockingDriver(device).run(load(traits, force_recovery=recovered)))
    except BlobstoreError as error:
        return repr(error)


def examined(image: SmallImage) -> list[str]:
    device = image.device(read_only=True)
    traits = DeviceTraits(device.size_bytes, atomic_write_size=device.atomic_write_size)
    return sorted(map(str, BlockingDriver(device).run(examine(traits)).findings))


WAYS: Final[dict[str, Callable[[SmallImage], object]]] = {
    "opened": lambda image: loaded(image, recovered=False),
    "recovered": lambda image: loaded(image, recovered=True),
    "checked": examined,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_store_is_seen_alike_with_and_without_batch_decoding(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [
        mutated(data, 1000 * n + change)
        for n, data in enumerate(SEEDS)
        for change in range(CHANGES)
    ]
    images = [SmallImage.unpack(data) for data in [*SEEDS, *inputs]]
    monkeypatch.setattr(relation_scan, "FEW_ROOTS", -1)
    at_once = [WAYS[way](image) for image in images]
    monkeypatch.setattr(BatchDecoder, "add_roots", nothing_is_decoded)
    monkeypatch.setattr(relation_scan, "FEW_ROOTS", MANY)
    for number, image in enumerate(images):
        assert WAYS[way](image) == at_once[number], f"image {number}"


@pytest.mark.parametrize("clean", [pytest.param(True, id="clean"), pytest.param(False, id="dirty")])
@pytest.mark.parametrize("name", SHAPES)
def test_a_root_of_every_kind_is_seen_alike(
    name: str, clean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = Forge(md_len=64, cluster_count=1300, cluster_size=4096, clean=clean)
    forge.root(3, flags(1, 1) + runs((290, 1)))
    forge.root(5, SHAPES[name])
    forge.put(61, 5, extents(0, [220, 221]))
    forge.put(60, 5, extents(0, [1260, 1261]))
    device = forge.device(read_only=True)
    image = SmallImage.of(device.read(0, device.size_bytes), compact=True)
    monkeypatch.setattr(relation_scan, "FEW_ROOTS", -1)
    at_once = {way: see(image) for way, see in WAYS.items()}
    monkeypatch.setattr(BatchDecoder, "add_roots", nothing_is_decoded)
    monkeypatch.setattr(relation_scan, "FEW_ROOTS", MANY)
    assert {way: see(image) for way, see in WAYS.items()} == at_once


TWICE: Final = {
    "an external parent": clone_of(3) + 2 * xattr("EXTSNAP", b"a", internal=True),
    "a marker": clone_of(3) + 2 * xattr("SNAPTMP", bytes(8), internal=True),
}


@pytest.mark.parametrize("few", [-1, MANY], ids=["all at once", "one by one"])
@pytest.mark.parametrize("name", TWICE)
def test_what_is_named_twice_hides_no_parent(
    name: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot below a blob that does not open has a clone all the same."""
    monkeypatch.setattr(relation_scan, "FEW_ROOTS", few)
    forge = Forge(md_len=40, cluster_count=300, cluster_size=4096)
    forge.root(3, flags(1, 1), runs((290, 1)))
    forge.root(5, TWICE[name] + table(2, (0, 1)))
    device = forge.device()
    store = BlockingDriver(device).run(load(DeviceTraits(device.size_bytes)))
    assert store.clones.of(blob_id_of(PageIndex(3))) == (blob_id_of(PageIndex(5)),)
    assert (blob_id_of(PageIndex(5)) in store.errors) == (name == "a marker")
