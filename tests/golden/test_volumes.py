"""The golden images that are volume stores: names, uuids and relations; and a store made here."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from blobstore import Blobstore, VolumeStore, check
from blobstore.volumes.identity import VOLUME_STORE_TYPE
from tests.golden.images import IMAGE_NAMES, load_image, manifest
from tests.replay import ReplayDevice


def state_of(name: str) -> dict[str, Any]:
    """Return what the original sees of an image, nothing if it cannot load it."""
    expected = manifest(name)["expected_after_load"]
    state: dict[str, Any] = expected.get("state") or {}
    return state


VOLUME_STORES = [
    name for name in IMAGE_NAMES if state_of(name).get("bstype") == VOLUME_STORE_TYPE.hex()
]


def xattrs_of(blob: dict[str, Any]) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in blob["xattrs"]}


def text(value: bytes) -> str:
    return value.split(b"\0")[0].decode()


def test_there_are_two_images_of_volume_stores() -> None:
    assert VOLUME_STORES == ["lvolstore_bl4096_clean", "lvolstore_bl4096_dirty"]


@pytest.mark.parametrize("name", VOLUME_STORES)
def test_a_golden_volume_store_has_its_names_uuids_and_relations(name: str) -> None:
    state = state_of(name)
    device = ReplayDevice.of(load_image(name))
    with VolumeStore.open(device, read_only=True) as store:
        blobs = {blob["id"]: blob for blob in state["blobs"]}
        own = xattrs_of(blobs.pop(state["super_blob"]))
        assert (store.name, str(store.uuid)) == (text(own["name"]), text(own["uuid"]))
        assert [info.id for info in store] == sorted(blobs)
        assert len(store) == len(blobs) > 5
        for info in store:
            wanted = xattrs_of(blobs[info.id])
            assert (info.name, str(info.uuid)) == (text(wanted["name"]), text(wanted["uuid"]))
            with store.open_volume(info.name) as volume:
                found = volume.info
                assert found.parent == blobs[info.id]["parent_snapshot"]
                assert found.snapshot == blobs[info.id]["is_snapshot"]
                assert sorted(found.clones) == sorted(blobs[info.id]["clones"])
                assert found.xattrs == wanted


@pytest.mark.parametrize("name", VOLUME_STORES)
def test_volumes_of_a_golden_store_are_renamed_cloned_and_deleted(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "golden.img"
    path.write_bytes(load_image(name))
    with VolumeStore.open(path) as store:
        uuid = store.volume_info("lvol1").uuid
        store["lvol1"].rename("web")
        store["snap0"].clone("fresh").close()
        store.delete_volume("clone0")
        store.rename("renamed")
    with VolumeStore.open(path, read_only=True) as store:
        assert store.name == "renamed"
        assert store.volume_info("web").uuid == uuid
        assert "fresh" in store
        assert "clone0" not in store
    assert check(path).clean


def test_a_store_made_here_has_the_attributes_of_the_original_byte_for_byte(
    tmp_path: Path,
) -> None:
    path = tmp_path / "made.img"
    with VolumeStore.create(path, name="lvs", size="16MiB", cluster_size="64KiB") as store:
        volume = store.create_volume("db", "1MiB", thin=True)
        snapshot = volume.snapshot("s")
        snapshot.clone("c")
        uuids = {info.name: str(info.uuid) for info in store} | {"lvs": str(store.uuid)}
    assert all(str(UUID(uuid)) == uuid for uuid in uuids.values())
    with Blobstore.open(path, read_only=True) as blobs:
        found = [list(info.xattrs.items()) for info in blobs.list_blobs()]
    assert found[0] == [("uuid", uuids["lvs"].encode() + b"\0"), ("name", b"lvs\0")]
    assert found[1:] == [
        [("name", name.encode().ljust(64, b"\0")), ("uuid", uuids[name].encode() + b"\0")]
        for name in ("db", "s", "c")
    ]
