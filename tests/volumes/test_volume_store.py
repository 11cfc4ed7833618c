from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from blobstore import (
    Blobstore,
    BusyError,
    CorruptError,
    ExistsError,
    InvalidArgumentError,
    MemoryDevice,
    NotFoundError,
    ReadOnlyError,
    Volume,
    VolumeStore,
    WrongTypeError,
    check,
)

CLUSTER = "64KiB"


def made(path: Path, name: str = "vms") -> VolumeStore:
    return VolumeStore.create(path, name=name, size="16MiB", cluster_size=CLUSTER)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def test_the_first_example_works(image: Path) -> None:
    with VolumeStore.create(image, name="vms", size="64MiB", cluster_size=CLUSTER) as vms:
        debian = vms.create_volume("debian", size="10MiB", thin=True)
        debian.write(b"hello", offset=0)
        monday = debian.snapshot("debian@monday")
        web = monday.clone("web")
        assert vms["web"].read(5, offset=0) == b"hello"
        assert web.name == "web"
    assert check(image).clean


def test_names_and_uuids_stay_over_the_end_of_the_store(image: Path) -> None:
    with made(image) as vms:
        store_uuid, uuid = vms.uuid, vms.create_volume("db", "1MiB").uuid
    with VolumeStore.open(image) as vms:
        assert (vms.name, vms.uuid) == ("vms", store_uuid)
        (info,) = vms
        assert (info.name, info.uuid, info.unique_id) == ("db", uuid, str(uuid))
        assert info.alias == "vms/db"


def test_a_volume_is_found_by_name_uuid_text_alias_and_id(image: Path) -> None:
    with made(image) as vms:
        volume = vms.create_volume("db", "1MiB")
        assert isinstance(volume.uuid, UUID)
        keys: list[str | UUID | int] = [
            "db",
            volume.uuid,
            str(volume.uuid),
            str(volume.uuid).upper(),
            "vms/db",
        ]
        keys.append(volume.id)
        assert all(key in vms for key in keys)
        assert {vms[key].id for key in keys} == {volume.id}
        for wrong in ("d", "vms", "vms/d", uuid4(), 7, None):
            assert wrong not in vms
        assert len(vms) == 1


def test_what_subscription_opens_is_kept_and_closed_before_a_deletion(image: Path) -> None:
    with made(image) as vms:
        vms.create_volume("db", "1MiB").close()
        assert vms["db"] is vms["db"]
        kept = vms["db"]
        vms.delete_volume("db")
        assert kept.closed
        assert "db" not in vms
        with pytest.raises(NotFoundError, match="no volume 'db'"):
            vms["db"]


def test_a_volume_that_somebody_opened_is_not_deleted(image: Path) -> None:
    with made(image) as vms:
        volume = vms.create_volume("db", "1MiB")
        with pytest.raises(BusyError):
            vms.delete_volume("db")
        assert "db" in vms
        volume.close()
        vms.delete_volume("db")


def test_names_are_unique_whatever_makes_a_volume(image: Path) -> None:
    with made(image) as vms:
        volume = vms.create_volume("a", "1MiB", thin=True)
        snapshot = volume.snapshot("b")
        for make in (
            lambda: vms.create_volume("b", "1MiB"),
            lambda: volume.snapshot("a"),
            lambda: snapshot.clone("a"),
            lambda: volume.rename("b"),
        ):
            with pytest.raises(ExistsError, match="exists"):
                make()
        assert sorted(info.name for info in vms) == ["a", "b"]


def test_a_deleted_name_can_be_used_again(image: Path) -> None:
    with made(image) as vms:
        for _time in range(3):
            vms.create_volume("a", "1MiB").close()
            assert [info.name for info in vms] == ["a"]
            vms.delete_volume("a")
        assert not list(vms)


@pytest.mark.parametrize("name", ["", "x" * 64])
def test_a_name_that_cannot_be_changes_nothing(image: Path, name: str) -> None:
    with made(image) as vms:
        volume = vms.create_volume("a", "1MiB", thin=True)
        for use in (
            lambda: vms.create_volume(name, "1MiB"),
            lambda: volume.snapshot(name),
            lambda: volume.rename(name),
            lambda: vms.rename(name),
        ):
            with pytest.raises(InvalidArgumentError, match="expected 1 to 63"):
                use()
        assert [info.name for info in vms] == ["a"]


def test_a_rename_keeps_the_uuid_and_is_durable(image: Path) -> None:
    with made(image) as vms:
        volume = vms.create_volume("a", "1MiB")
        uuid = volume.uuid
        volume.rename("a")
        volume.rename("b" * 63)
        assert volume.alias == "vms/" + "b" * 63
        vms.rename("other")
    with VolumeStore.open(image) as vms:
        assert vms.name == "other"
        assert vms["b" * 63].uuid == uuid


def test_a_snapshot_keeps_its_name(image: Path) -> None:
    with made(image) as vms:
        snapshot = vms.create_volume("a", "1MiB", thin=True).snapshot("s")
        with pytest.raises(ReadOnlyError):
            snapshot.rename("t")
        assert "s" in vms


def test_the_attributes_of_a_volume_are_byte_for_byte_the_originals(image: Path) -> None:
    with made(image) as vms:
        volume = vms.create_volume("a", "1MiB", xattrs={"more": b"1"})
        texts = {"uuid": str(volume.uuid), "store": str(vms.uuid)}
        volume.rename("abc")
    with Blobstore.open(image) as store:
        with store.open_blob(store.super_blob) as super_blob:
            assert list(super_blob.xattrs.items()) == [
                ("uuid", texts["store"].encode() + b"\0"),
                ("name", b"vms\0"),
            ]
            assert super_blob.id == 0x1_0000_0000
        with store.open_blob(0x1_0000_0001) as blob:
            assert list(blob.xattrs.items()) == [
                ("name", b"abc\0"),
                ("uuid", texts["uuid"].encode() + b"\0"),
                ("more", b"1"),
            ]


def test_name_and_uuid_are_not_changed_as_attributes(image: Path) -> None:
    with made(image) as vms:
        volume = vms.create_volume("a", "1MiB")
        for name in ("name", "uuid"):
            with pytest.raises(InvalidArgumentError, match="rename or reid"):
                volume.xattrs[name] = b"x"
            with pytest.raises(InvalidArgumentError, match="rename or reid"):
                volume.remove_xattr(name)
        with pytest.raises(InvalidArgumentError):
            vms.create_volume("b", xattrs={"name": b"x"})


def test_a_copy_of_an_open_store_is_refused_by_name_and_reid_tells_it_apart(
    tmp_path: Path, image: Path
) -> None:
    copy = tmp_path / "copy.img"
    with made(image) as vms:
        vms.create_volume("a", "1MiB", thin=True).snapshot("s")
    copy.write_bytes(image.read_bytes())
    with VolumeStore.open(image), pytest.raises(ExistsError, match=r"'vms' on .*disk\.img.*reid"):
        VolumeStore.open(copy)
    with VolumeStore.open(copy) as second:
        before = {info.uuid for info in second}
        second.reid(name="copy")
        assert second.name == "copy"
        assert before.isdisjoint(info.uuid for info in second)
    with VolumeStore.open(image) as vms, VolumeStore.open(copy) as second:
        assert {info.name for info in vms} == {info.name for info in second} == {"a", "s"}
        assert {info.uuid for info in vms}.isdisjoint(info.uuid for info in second)
    assert check(copy).clean


def test_a_plain_store_is_no_volume_store(image: Path) -> None:
    Blobstore.create(image, size="16MiB").close()
    with pytest.raises(WrongTypeError):
        VolumeStore.open(image)


def test_a_store_without_its_super_blob_is_refused(image: Path) -> None:
    made(image).close()
    with Blobstore.open(image) as store:
        store.set_super_blob(None)
    with pytest.raises(NotFoundError, match="no super blob") as caught:
        VolumeStore.open(image)
    assert caught.value.errno_name == "ENODEV"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("uuid", b"x", "store uuid"), ("name", b"x" * 65, "store name")],
)
def test_a_store_with_a_damaged_identity_is_refused(
    image: Path, name: str, value: bytes, message: str
) -> None:
    made(image).close()
    with Blobstore.open(image) as store, store.open_blob(store.super_blob) as blob:
        blob.set_xattr(name, value)
    with pytest.raises(CorruptError, match=message) as caught:
        VolumeStore.open(image)
    assert caught.value.errno_name == "EINVAL"


def test_volumes_without_a_name_or_uuid_are_there_all_the_same(image: Path) -> None:
    with made(image) as vms:
        ids = [vms.create_volume(name, "1MiB").id for name in ("a", "b")]
    with Blobstore.open(image) as store:
        with store.open_blob(ids[0]) as blob:
            blob.remove_xattr("uuid")
        with store.open_blob(ids[1]) as blob:
            blob.remove_xattr("name")
    with VolumeStore.open(image) as vms:
        legacy, nameless = vms
        assert legacy.uuid is None
        assert legacy.unique_id == f"{vms.uuid}_4294967297"
        assert vms[legacy.unique_id].name == "a"
        assert nameless.name == ""
        vms[nameless.id].rename("b")
        assert "b" in vms


def test_a_volume_reads_and_writes_with_the_code_of_a_blob() -> None:
    assert {"read", "read_into", "write"}.isdisjoint(vars(Volume))


def test_a_new_store_gives_every_cluster_that_is_not_metadata() -> None:
    with VolumeStore.create(MemoryDevice(64 << 20), name="m", cluster_size=CLUSTER) as vms:
        assert vms.free_clusters == vms.info.data_clusters


def test_fewer_metadata_pages_leave_more_room() -> None:
    few = VolumeStore.create(
        MemoryDevice(64 << 20), name="m", cluster_size=CLUSTER, md_pages_per_cluster_ratio=50
    )
    with few as vms:
        assert vms.info.md_len == vms.info.total_clusters // 2


def test_two_stores_may_have_one_name(tmp_path: Path) -> None:
    with made(tmp_path / "a") as first, made(tmp_path / "b") as second:
        assert first.name == second.name == "vms"
        first.create_volume("only here", "1MiB").close()
        assert "only here" not in second


def test_threads_that_want_one_name_do_not_share_it(image: Path) -> None:
    with made(image) as vms:
        others = [vms.create_volume(f"v{number}", "64KiB") for number in range(4)]

        def rename(volume: Volume) -> bool:
            try:
                volume.rename("wanted")
            except ExistsError:
                return False
            return True

        def create(_number: int) -> bool:
            try:
                vms.create_volume("wanted", "64KiB").close()
            except ExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = [*pool.map(rename, others), *pool.map(create, range(4))]
        assert won.count(True) == 1
        assert [info.name for info in vms].count("wanted") == 1
