"""Clones of external snapshots that the original left with a stale `SNAP` (FORMAT 5).

The flag of an external snapshot decides. The stale parent's id is gone in one of the stores,
and names another blob in the other: neither may be read, counted, or kept from being deleted.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import zstandard

from blobstore import BlobId, BlobInfo, Blobstore, MemoryDevice, Rescue, check, repair
from tests.proof.corruptions.image import StoreImage
from tests.replay import COMPACT, SECTOR, ReplayDevice
from tests.shared import shared

_STORES: Final = shared("golden-external")
NAMES: Final = sorted(path.stem for path in _STORES.glob("*.json"))
MANIFESTS: Final[dict[str, dict[str, Any]]] = {
    name: json.loads((_STORES / f"{name}.json").read_bytes()) for name in NAMES
}
_SOURCE: Final = re.compile(r"hashlib\.sha256\('(\w+)'\.encode\(\)\)\.digest\(\) \* (\d+)")

CLONE, OTHER_CLONE, STALE_PARENT, USED_AGAIN = (BlobId(1 << 32 | page) for page in range(4))
"""The blobs of `external_01`: the clones' stale parents are blobs that are there."""

stores = pytest.mark.parametrize("name", NAMES)
layouts = pytest.mark.parametrize(
    "atomic", [pytest.param(COMPACT, id="compact"), pytest.param(SECTOR, id="sector")]
)


def image_of(name: str) -> bytes:
    compressed = (_STORES / f"{name}.img.zst").read_bytes()
    with zstandard.ZstdDecompressor().stream_reader(compressed) as reader:
        return reader.read()


def source(content: dict[str, Any]) -> MemoryDevice:
    """Return an external snapshot as its manifest describes it."""
    made = _SOURCE.fullmatch(content["python"])
    assert made is not None
    data = hashlib.sha256(made[1].encode()).digest() * int(made[2])
    assert len(data) == content["size"]
    device = MemoryDevice(len(data))
    device.write(0, [data])
    return device


def device_of(name: str, atomic: int = SECTOR) -> ReplayDevice:
    return ReplayDevice.of(image_of(name), atomic_write_size=atomic)


@contextmanager
def opened(device: ReplayDevice, name: str, *, force_recovery: bool = False) -> Iterator[Blobstore]:
    """Open a store, and say what its external snapshots are."""
    with Blobstore.open(device, force_recovery=force_recovery) as store:
        for external_id, content in MANIFESTS[name]["external"].items():
            store.register_external(external_id.encode(), source(content))
        yield store


def content_of(store: Blobstore, blob_id: BlobId) -> str:
    with store.open_blob(blob_id) as blob:
        return hashlib.sha256(blob.read(blob.size)).hexdigest()


def facts_of(store: Blobstore, info: BlobInfo) -> dict[str, Any]:
    """Return what the manifests say of a blob."""
    external = info.external_snapshot
    return {
        "parent": info.parent,
        "external": None if external is None else external.decode(),
        "clusters": info.cluster_count,
        "allocated": info.allocated_clusters,
        "thin": info.thin,
        "read_only": info.read_only,
        "clones": info.clones,
        "sha256": content_of(store, info.blob_id),
    }


def expected_of(name: str) -> dict[int, dict[str, Any]]:
    blobs = MANIFESTS[name]["expected"].items()
    return {
        int(blob_id): {fact: value for fact, value in facts.items() if fact != "stale"}
        for blob_id, facts in blobs
    }


def seen_in(store: Blobstore) -> dict[int, dict[str, Any]]:
    found = [info for info in store.list_blobs() if info.error is None]
    return {info.blob_id: facts_of(store, info) for info in found}


@stores
@pytest.mark.parametrize("recovery", [False, True], ids=["clean", "recovered"])
def test_a_store_with_stale_parents_is_as_the_original_sees_it(name: str, recovery: bool) -> None:
    with opened(device_of(name), name, force_recovery=recovery) as store:
        assert seen_in(store) == expected_of(name)


@stores
@layouts
def test_stale_parents_stay_stale_when_their_clones_are_rewritten(name: str, atomic: int) -> None:
    device = device_of(name, atomic)
    with opened(device, name) as store:
        for blob_id in store.blob_ids():
            with store.open_blob(blob_id) as blob:
                if not blob.info.read_only:
                    blob.set_xattr("note", b"rewritten")
    with opened(device, name) as store:
        assert seen_in(store) == expected_of(name)


@layouts
def test_a_stale_parent_has_no_clones_and_is_deleted_alone(atomic: int) -> None:
    device = device_of("external_01", atomic)
    expected = expected_of("external_01")
    with opened(device, "external_01") as store:
        for blob_id in (STALE_PARENT, USED_AGAIN):
            store.delete_blob(blob_id)
            del expected[blob_id]
    with opened(device, "external_01") as store:
        assert seen_in(store) == expected
        assert store.free_clusters == store.info.data_clusters - 2


@layouts
def test_deleting_a_clone_with_a_stale_parent_leaves_that_parent_alone(atomic: int) -> None:
    device = device_of("external_01", atomic)
    with opened(device, "external_01") as store:
        store.delete_blob(CLONE)
        store.delete_blob(OTHER_CLONE)
    with opened(device, "external_01") as store:
        left = {at: expected_of("external_01")[at] for at in (STALE_PARENT, USED_AGAIN)}
        assert seen_in(store) == left


@stores
def test_a_snapshot_of_a_clone_with_a_stale_parent_is_a_clone_of_the_external_alone(
    name: str,
) -> None:
    device, expected = device_of(name), expected_of(name)
    with opened(device, name) as store, store.open_blob(CLONE) as clone:
        snapshot = clone.snapshot()
        info = snapshot.info
        assert list(info.internal_xattrs) == ["EXTSNAP"]
        assert (info.parent, info.clones) == (None, [CLONE])
        assert (clone.info.parent, clone.info.external_snapshot) == (snapshot.id, None)
    with opened(device, name) as store:
        seen = seen_in(store)
        assert seen[CLONE]["sha256"] == seen[snapshot.id]["sha256"] == expected[CLONE]["sha256"]
        store.delete_blob(snapshot.id)
    with opened(device, name) as store:
        assert seen_in(store) == expected


@pytest.mark.parametrize("change", ["inflate", "decouple"])
def test_a_clone_with_a_stale_parent_inflates_to_what_it_reads_as(change: str) -> None:
    device, expected = device_of("external_01"), expected_of("external_01")
    with opened(device, "external_01") as store, store.open_blob(CLONE) as clone:
        clone.inflate() if change == "inflate" else clone.decouple()
        info = clone.info
        assert (info.external_snapshot, info.internal_xattrs, info.thin) == (None, {}, False)
    with opened(device, "external_01") as store:
        assert content_of(store, CLONE) == expected[CLONE]["sha256"]


def test_a_clone_with_a_stale_parent_can_become_that_blobs_clone() -> None:
    device = device_of("external_01")
    with opened(device, "external_01") as store, store.open_blob(OTHER_CLONE) as clone:
        clone.set_parent(STALE_PARENT)
        assert (clone.info.parent, clone.info.external_snapshot) == (STALE_PARENT, None)
    with opened(device, "external_01") as store:
        assert content_of(store, OTHER_CLONE) == content_of(store, STALE_PARENT)


@pytest.mark.parametrize("marker", ["SNAPTMP", "SNAPRM"])
@pytest.mark.parametrize("recovery", [False, True], ids=["clean", "recovered"])
def test_a_half_made_snapshot_does_not_stand_for_a_stale_parent(
    marker: str, recovery: bool
) -> None:
    names = {"half-made": STALE_PARENT}
    image = StoreImage.of(image_of("external_01"), image_of("external_01"), names)
    image.set_internal("half-made", marker, OTHER_CLONE.to_bytes(8, "little"))
    device, expected = ReplayDevice.of(bytes(image.data)), expected_of("external_01")
    del expected[STALE_PARENT]
    with opened(device, "external_01", force_recovery=recovery) as store:
        assert seen_in(store) == expected
        assert store.free_clusters == store.info.data_clusters - 6


def test_a_stale_parent_of_any_length_is_passed_over() -> None:
    image = StoreImage.of(image_of("external_01"), image_of("external_01"), {"clone": CLONE})
    image.set_internal("clone", "SNAP", b"short")
    with opened(ReplayDevice.of(bytes(image.data)), "external_01") as store:
        assert seen_in(store) == expected_of("external_01")


# --- looking at them, and repairing ----------------------------------------------------------


@stores
@pytest.mark.parametrize("has_super_block", [True, False], ids=["whole", "no super block"])
def test_rescue_reads_clones_with_a_stale_parent_as_the_original_does(
    name: str, has_super_block: bool
) -> None:
    device = device_of(name)
    if not has_super_block:
        device.write(0, [bytes(4096)])
    with Rescue.open(device) as rescue:
        for external_id, content in MANIFESTS[name]["external"].items():
            rescue.register_external(external_id.encode(), source(content))
        found = {
            blob.id: (blob.parent, hashlib.sha256(blob.read(blob.size)).hexdigest())
            for blob in rescue.blobs()
        }
    assert found == {
        blob_id: (facts["parent"], facts["sha256"]) for blob_id, facts in expected_of(name).items()
    }


@stores
def test_a_stale_parent_is_a_note_that_a_safe_repair_removes(name: str) -> None:
    device = device_of(name)
    stale = {int(at) for at, facts in MANIFESTS[name]["expected"].items() if facts["stale"]}
    report = check(device)
    assert report.clean
    assert {finding.blob for finding in report.findings if finding.invariant == 41} == stale
    done = repair(device, "safe")
    assert [finding for finding in done.after.findings if finding.invariant == 41] == []
    assert repair(device, "safe").repaired == ()
    with opened(device, name) as store:
        assert seen_in(store) == expected_of(name)
        for blob_id in stale:
            with store.open_blob(blob_id) as blob:
                assert "SNAP" not in blob.info.internal_xattrs
