from pathlib import Path

import pytest

from blobstore import Blobstore, InvalidArgumentError, NotFoundError, VolumeStore
from blobstore.nbd.constants import ExportFlag
from blobstore.nbd.exports import StoreExports, id_in


def names(exports: StoreExports) -> list[str]:
    return [name for name, _description in exports.listed()]


def test_volumes_are_found_by_name_uuid_alias_and_id(volumes: VolumeStore) -> None:
    exports = StoreExports(volumes)
    info = volumes.volume_info("web")
    for name in ("web", str(info.uuid), "vms/web", str(info.id), f"{info.id:#x}"):
        export = exports.open(name)
        assert export.blob.id == info.id
        export.close()
    for name in ("", "nobody", "0", "99"):
        with pytest.raises(NotFoundError):
            exports.open(name)


def test_the_list_names_what_each_export_is_and_its_size(volumes: VolumeStore) -> None:
    info = volumes.volume_info("web")
    listed = dict(StoreExports(volumes).listed())
    assert listed["web"] == f"clone {info.id:#x}, 4 MiB, thin, uuid {info.uuid}"
    assert listed["monday"].startswith("snapshot 0x")


def test_snapshots_are_read_only_and_so_is_everything_where_that_was_asked_for(
    volumes: VolumeStore,
) -> None:
    for exports, name, is_read_only in (
        (StoreExports(volumes), "monday", True),
        (StoreExports(volumes), "web", False),
        (StoreExports(volumes, read_only=True), "web", True),
    ):
        export = exports.open(name)
        assert bool(export.flags & ExportFlag.READ_ONLY) == is_read_only
        assert bool(export.flags & ExportFlag.SEND_TRIM) != is_read_only
        export.close()


def test_the_list_follows_changes_of_the_store(volumes: VolumeStore) -> None:
    exports = StoreExports(volumes)
    volumes.create_volume("new", "1MiB").close()
    assert names(exports) == ["web", "monday", "new"]
    with volumes.open_volume("new") as volume:
        volume.rename("renamed")
    volumes.delete_volume("web")
    assert names(exports) == ["monday", "renamed"]
    exports.open("renamed").close()


def test_named_ones_alone_are_exported_and_the_first_needs_no_name(volumes: VolumeStore) -> None:
    first = [volumes.volume_info("monday").id]
    exports = StoreExports(volumes, first, export_all=False)
    assert names(exports) == ["monday"]
    export = exports.open("")
    assert export.blob.id == first[0]
    export.close()
    with pytest.raises(NotFoundError, match="no export 'web'"):
        exports.open("web")
    assert names(StoreExports(volumes, first)) == ["monday", "web"]


def test_blobs_are_listed_by_a_name_that_opens_them(place: Path) -> None:
    with Blobstore.create(place / "blobs.img", size="16MiB", cluster_size="64KiB") as store:
        ids = [
            store.create_blob("64KiB", name=name).id for name in ("one", "two", "two", "7", None)
        ]
        exports = StoreExports(store)
        listed = names(exports)
        assert listed == ["one", *(f"{blob_id:#x}" for blob_id in ids[1:])]
        for name, blob_id in zip(listed, ids, strict=True):
            export = exports.open(name)
            assert export.blob.id == blob_id
            export.close()
        with pytest.raises(InvalidArgumentError, match="2 blobs"):
            exports.open("two")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("0x10", 16),
        ("0X10", 16),
        ("", None),
        ("0x", None),
        ("-1", None),
        ("9" * 99, None),
    ],
)
def test_ids_are_decimal_or_hex(text: str, number: int | None) -> None:
    assert id_in(text) == number
