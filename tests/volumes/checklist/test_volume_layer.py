"""Part B: what the original's tests of its volume layer show."""

import errno
from contextlib import suppress
from uuid import UUID, uuid4

import pytest

from blobstore import (
    Blobstore,
    BlobstoreError,
    BusyError,
    CorruptError,
    DeviceError,
    ExistsError,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    NotFoundError,
    UnsupportedError,
    Volume,
    VolumeStore,
)
from tests.replay import ReplayDevice
from tests.rpc.client import Client, Failure

MIB = 1 << 20
BAD_NAMES = ["", "x" * 64]


def names(vms: VolumeStore) -> list[str]:
    return [info.name for info in vms]


def thin(vms: VolumeStore, name: str = "lvol") -> Volume:
    return vms.create_volume(name, 10, thin=True)


def test_lvs_init_unload_success(vms: VolumeStore) -> None:
    volume = vms.create_volume("lvol", 10)
    with pytest.raises(BusyError):
        vms.unload()
    assert not vms.closed
    volume.close()
    vms.unload()
    assert vms.closed


def test_lvs_init_destroy_success(vms: VolumeStore, device: ReplayDevice) -> None:
    volume = vms.create_volume("lvol", 10)
    with pytest.raises(BusyError):
        vms.destroy()
    volume.close()
    vms.delete_volume("lvol")
    vms.destroy()
    with pytest.raises(CorruptError):
        VolumeStore.open(device)


def test_lvs_init_opts_success(device: ReplayDevice) -> None:
    with VolumeStore.create(device, name="lvs", cluster_size=8192) as vms:
        assert vms.cluster_size == 8192


def test_lvs_unload_lvs_is_null_fail(vms: VolumeStore) -> None:
    vms.unload()
    vms.unload()
    assert vms.closed


def test_lvs_names(device: ReplayDevice) -> None:
    for name in BAD_NAMES:
        with pytest.raises(InvalidArgumentError):
            VolumeStore.create(device, name=name)
    assert device.change_count == 0
    VolumeStore.create(device, name="x").destroy()
    VolumeStore.create(device, name="x", overwrite=True).unload()
    with VolumeStore.open(device) as vms:
        assert vms.name == "x"


def test_lvs_names_of_one_process(client: Client) -> None:
    for bdev in ("one", "two", "three"):
        client("bdev_malloc_create", name=bdev, num_blocks=131072, block_size=512)

    def made(bdev: str, name: str) -> bool:
        answer = client("bdev_lvol_create_lvstore", bdev_name=bdev, lvs_name=name)
        assert not isinstance(answer, Failure) or answer.code == -errno.EEXIST
        return not isinstance(answer, Failure)

    assert [made("one", "x"), made("two", "y"), made("three", "x")] == [True, True, False]
    client("bdev_lvol_delete_lvstore", lvs_name="x")
    assert [made("three", "x"), made("one", "x")] == [True, False]
    client("bdev_lvol_delete_lvstore", lvs_name="x")
    assert made("one", "x")


def test_lvol_create_destroy_success(vms: VolumeStore) -> None:
    vms.create_volume("lvol", 10).close()
    vms.delete_volume("lvol")
    assert names(vms) == []


def test_lvol_create_fail(vms: VolumeStore) -> None:
    with pytest.raises(NoSpaceError):
        vms.create_volume("lvol", 64 * MIB + 1)
    assert names(vms) == []
    vms.create_volume("lvol", 10).close()
    vms.unload()


def test_lvol_destroy_fail(vms: VolumeStore, device: ReplayDevice) -> None:
    for _again in range(2):
        vms.create_volume("lvol", 10).close()
        vms.delete_volume("lvol")
    vms.create_volume("lvol", 10).close()
    device.fails, device.changes_left = True, 0
    with pytest.raises(DeviceError):
        vms.delete_volume("lvol")
    device.changes_left = None
    with suppress(BlobstoreError):
        vms.close()
    with VolumeStore.open(device) as again:
        assert names(again) == ["lvol"]


def test_lvol_close(vms: VolumeStore) -> None:
    volume = vms.create_volume("lvol", 10)
    volume.close()
    volume.close()
    assert volume.closed
    vms.unload()


def test_lvol_resize(vms: VolumeStore, device: ReplayDevice) -> None:
    volume = vms.create_volume("lvol", 10)
    for size, clusters in ((10, 1), (5, 1), (15, 1), (0, 0), (MIB + 1, 2)):
        volume.resize(size)
        assert volume.size == clusters * MIB
    with pytest.raises(NoSpaceError):
        volume.resize(0xFFFFFFFF)
    assert volume.size == 2 * MIB
    volume.resize(3 * MIB)
    device.fails, device.changes_left = True, 0
    with pytest.raises(DeviceError):
        volume.sync_md()
    device.changes_left = None
    with suppress(BlobstoreError):
        vms.close()


def test_lvol_set_read_only(vms: VolumeStore) -> None:
    volume = vms.create_volume("lvol", 10)
    volume.set_read_only()
    volume.sync_md()
    assert volume.clone("clone").name == "clone"


def test_lvs_load(vms: VolumeStore, device: ReplayDevice) -> None:
    vms.unload()
    good = device.read(0, device.size_bytes)

    def fails(errno_name: str) -> None:
        with pytest.raises(BlobstoreError) as caught:
            VolumeStore.open(device)
        assert caught.value.errno_name == errno_name
        device.write(0, [good])

    for attribute in ("uuid", "name"):
        with Blobstore.open(device) as store, store.open_blob(store.super_blob) as blob:
            blob.remove_xattr(attribute)
        fails("EINVAL")
    with Blobstore.open(device) as store:
        store.set_super_blob(None)
    fails("ENODEV")
    with Blobstore.open(device) as store:
        store.set_super_blob(1 << 32 | 9)
    fails("ENODEV")
    device.write(0, [bytes(4096)])
    fails("EILSEQ")
    with VolumeStore.open(device) as again:
        assert (again.name, len(again)) == ("lvs", 0)


def test_lvols_load(vms: VolumeStore, device: ReplayDevice) -> None:
    ids = [thin(vms, f"lvol{number}").id for number in (1, 2, 3)]
    vms.close()
    with Blobstore.open(device) as store, store.open_blob(ids[2]) as blob:
        blob.remove_xattr("name")
    with VolumeStore.open(device) as again:
        assert names(again) == ["lvol1", "lvol2", ""]
        assert [info.id for info in again] == ids


def test_lvol_open(vms: VolumeStore, device: ReplayDevice) -> None:
    for number in (1, 2, 3):
        thin(vms, f"lvol{number}").close()
    vms.unload()
    with VolumeStore.open(device) as again:
        device.reads_left = 0
        for name in names(again):
            with pytest.raises(BlobstoreError):
                again.open_volume(name)
        device.reads_left = None
        for name in names(again):
            again.open_volume(name).close()


def test_lvol_snapshot(vms: VolumeStore) -> None:
    assert thin(vms).snapshot("snap").name == "snap"


def test_lvol_snapshot_fail(vms: VolumeStore) -> None:
    volume = thin(vms)
    for name in (*BAD_NAMES, None):
        with pytest.raises(InvalidArgumentError):
            volume.snapshot(name)
    volume.snapshot("snap")
    with pytest.raises(ExistsError):
        volume.snapshot("snap")
    assert names(vms) == ["lvol", "snap"]


def test_lvol_clone(vms: VolumeStore) -> None:
    assert thin(vms).snapshot("snap").clone("clone").name == "clone"


def test_lvol_clone_fail(vms: VolumeStore) -> None:
    snapshot = thin(vms).snapshot("snap")
    for name in (*BAD_NAMES, None):
        with pytest.raises(InvalidArgumentError):
            snapshot.clone(name)
    snapshot.clone("clone")
    with pytest.raises(ExistsError):
        snapshot.clone("clone")
    assert names(vms) == ["lvol", "snap", "clone"]


def test_lvol_iter_clones(vms: VolumeStore) -> None:
    volume = thin(vms)
    snapshot = volume.snapshot("snap")
    assert (snapshot.info.clones, volume.info.clones) == ([volume.id], [])
    clone = snapshot.clone("clone")
    assert sorted(snapshot.info.clones) == [volume.id, clone.id]


def test_lvol_refcnt(vms: VolumeStore) -> None:
    first = vms.create_volume("lvol", 10)
    second = vms.open_volume("lvol")
    for handle in (first, second):
        with pytest.raises(BusyError):
            vms.delete_volume("lvol")
        handle.close()
    second.close()
    vms.delete_volume("lvol")
    vms.unload()


def test_lvol_names(vms: VolumeStore) -> None:
    for name in BAD_NAMES:
        with pytest.raises(InvalidArgumentError):
            vms.create_volume(name, 1)
    vms.create_volume("lvol", 1).close()
    with pytest.raises(ExistsError):
        vms.create_volume("lvol", 1)
    vms.create_volume("lvol2", 1).close()
    vms.delete_volume("lvol")
    vms.create_volume("lvol", 1).close()
    assert sorted(names(vms)) == ["lvol", "lvol2"]


def test_lvol_create_thin_provisioned(vms: VolumeStore) -> None:
    for wanted in (False, True):
        with vms.create_volume("lvol", 10, thin=wanted) as volume:
            assert volume.info.thin is wanted
        vms.delete_volume("lvol")


def test_lvol_rename(vms: VolumeStore) -> None:
    first, second = vms.create_volume("lvol", 1), vms.create_volume("lvol2", 1)
    with pytest.raises(ExistsError):
        vms.create_volume("lvol", 1)
    first.rename("lvol_new")
    assert first.name == "lvol_new"
    with pytest.raises(ExistsError):
        second.rename("lvol_new")
    assert second.name == "lvol2"


def test_lvs_rename(vms: VolumeStore, device: ReplayDevice) -> None:
    for _again in range(2):
        vms.rename("new_lvs_name")
        assert vms.name == "new_lvs_name"
    device.fails, device.changes_left = True, 0
    with pytest.raises(DeviceError):
        vms.rename("another")
    assert vms.name == "new_lvs_name"
    device.changes_left = None
    with suppress(BlobstoreError):
        vms.close()
    with VolumeStore.open(device) as again:
        assert again.name == "new_lvs_name"


def test_lvol_inflate(vms: VolumeStore) -> None:
    volume = vms.create_volume("lvol", 2 * MIB, thin=True)
    volume.snapshot("snap")
    volume.inflate()
    assert (volume.info.parent, volume.info.allocated_clusters) == (None, 2)
    huge = vms.create_volume("huge", 100 * MIB, thin=True)
    with pytest.raises(NoSpaceError):
        huge.inflate()


def test_lvol_decouple_parent(vms: VolumeStore) -> None:
    volume = thin(vms)
    with pytest.raises(InvalidArgumentError):
        volume.decouple()
    volume.write(b"x")
    volume.snapshot("snap")
    volume.decouple()
    assert (volume.info.parent, volume.info.thin, volume.read(1)) == (None, True, b"x")


def source(content: bytes = b"golden") -> MemoryDevice:
    device = MemoryDevice(MIB)
    device.write(0, [content])
    return device


def test_lvol_esnap_reload(vms: VolumeStore, device: ReplayDevice) -> None:
    uuid = uuid4()
    vms.register_external(uuid, source())
    vms.create_volume("e", MIB, external_snapshot=uuid)
    vms.close()
    with VolumeStore.open(device) as again:
        again.register_external(uuid, source())
        assert again["e"].read(6) == b"golden"


def test_lvol_esnap_create_bad_args(vms: VolumeStore) -> None:
    uuid = uuid4()
    vms.register_external(uuid, source())
    for name in BAD_NAMES:
        with pytest.raises(InvalidArgumentError):
            vms.create_volume(name, MIB, external_snapshot=uuid)
    thin(vms)
    with pytest.raises(ExistsError):
        vms.create_volume("lvol", MIB, external_snapshot=uuid)
    vms.create_volume("clone1", MIB, external_snapshot=uuid)
    with pytest.raises(ExistsError):
        vms.create_volume("clone1", MIB, external_snapshot=uuid)
    assert names(vms) == ["lvol", "clone1"]


def test_lvol_esnap_create_delete(vms: VolumeStore) -> None:
    uuid = uuid4()
    vms.register_external(uuid, source())
    with vms.create_volume("clone1", MIB, external_snapshot=uuid) as clone:
        assert clone.info.external_snapshot == str(uuid).encode() + b"\0"
    vms.delete_volume("clone1")
    assert names(vms) == []


def degraded(vms: VolumeStore, device: ReplayDevice, *uuids: UUID) -> VolumeStore:
    """Make volumes v0, v1, ... that are clones of these, and load the store without the sources."""
    for number, uuid in enumerate(uuids):
        vms.register_external(uuid, source())
        vms.create_volume(f"v{number}", MIB, external_snapshot=uuid)
    vms.close()
    return VolumeStore.open(device)


def test_lvol_esnap_missing(vms: VolumeStore, device: ReplayDevice) -> None:
    uuid = uuid4()
    with degraded(vms, device, uuid) as again:
        for external in (uuid, None):
            with pytest.raises(ExistsError):
                again.create_volume("v0", MIB, external_snapshot=external)
        snapshot = again["v0"].snapshot("s")
        assert snapshot.degraded
        assert again["v0"].degraded
        snapshot.close()
        again["v0"].close()
        again.delete_volume("s")
        assert again["v0"].info.external_snapshot == str(uuid).encode() + b"\0"
        again.delete_volume("v0")
        assert names(again) == []


@pytest.mark.parametrize("clones", [1, 2, 3])
def test_lvol_esnap_hotplug(vms: VolumeStore, device: ReplayDevice, clones: int) -> None:
    first, other = uuid4(), uuid4()
    with degraded(vms, device, *[first] * clones, other) as again:
        volumes = [again.open_volume(info.id) for info in again]
        assert all(volume.degraded for volume in volumes)
        with pytest.raises(UnsupportedError):
            volumes[0].read(6)
        again.register_external(first, source())
        assert [volume.degraded for volume in volumes] == [False] * clones + [True]
        assert {volume.read(6) for volume in volumes[:-1]} == {b"golden"}
        again.register_external(other, source(b"second"))
        assert volumes[-1].read(6) == b"second"


def test_lvol_esnap_hotplug_that_fails_leaves_the_clones_as_they_were(
    vms: VolumeStore, device: ReplayDevice
) -> None:
    first, other = uuid4(), uuid4()
    with degraded(vms, device, first, first, other) as again:
        volumes = [again.open_volume(info.id) for info in again]
        with pytest.raises(InvalidArgumentError):
            again.register_external(first, MemoryDevice(MIB, 8192))
        again.register_external(other, source())
        assert [volume.degraded for volume in volumes] == [True, True, False]
        again.register_external(first, source())
        assert [volume.degraded for volume in volumes] == [False, False, False]


def test_lvol_get_by(vms: VolumeStore) -> None:
    volume = vms.create_volume("lvol", 1)
    for second in (None, "lvol2"):
        if second is not None:
            vms.create_volume(second, 1)
        assert vms.volume_info("lvs/lvol").id == vms.volume_info("lvol").id == volume.id
        assert vms.volume_info(str(volume.uuid)).id == volume.id
        for wrong in ("lvoll", "lvo", "lvss/lvol", "lv/lvol", "lvs"):
            with pytest.raises(NotFoundError):
                vms.volume_info(wrong)
    with VolumeStore.create(MemoryDevice(64 << 20), name="lvs2") as other:
        other.create_volume("lvol", 1)
        assert other["lvs2/lvol"].uuid != volume.uuid
        assert "lvs/lvol" not in other


def test_lvol_shallow_copy(vms: VolumeStore) -> None:
    volume = vms.create_volume("lvol", 10)
    volume.write(b"hello")
    volume.set_read_only()
    volume.sync_md()
    target = MemoryDevice(MIB)
    assert volume.shallow_copy(target) == 1
    assert target.read(0, 5) == b"hello"


def test_lvol_set_parent(vms: VolumeStore) -> None:
    first, second = thin(vms, "lvol1"), thin(vms, "lvol2")
    snapshot = second.snapshot("snap1")
    with pytest.raises(InvalidArgumentError):
        first.set_parent(first.id)
    first.set_parent(snapshot.id)
    assert first.info.parent == snapshot.id


def test_lvol_set_external_parent(vms: VolumeStore) -> None:
    volume, uuid = thin(vms), uuid4()
    for wrong in (b"", str(volume.uuid).encode() + b"\0"):
        with pytest.raises(NotFoundError):  # none of them is registered
            volume.set_external_parent(wrong)
    vms.register_external(uuid, source())
    volume.set_external_parent(str(uuid).encode() + b"\0")
    assert volume.read(6) == b"golden"
