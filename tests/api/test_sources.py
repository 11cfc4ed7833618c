"""What a store lives on: paths that look like addresses, and who closes a device."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blobstore import (
    Blobstore,
    DeviceError,
    MemoryDevice,
    UnsupportedError,
    Volume,
    VolumeStore,
    check,
    dump,
    grow,
    iter_dump,
    repair,
)
from blobstore.volumes.volume_store import VolumeRecord

MIB = 1 << 20


@pytest.mark.parametrize("name", ["./a:b.img", "{}/a:b.img", "x/y:z"])
def test_a_store_is_made_in_a_file_with_a_colon_in_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    source = name.format(tmp_path)
    with Blobstore.create(source, size="8MiB"):
        pass
    with Blobstore.open(source, read_only=True) as store:
        assert store.info.size == 8 * MIB


def test_what_is_an_address_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedError, match=r"\./a:b\.img"):
        Blobstore.create("a:b.img", size="8MiB")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "use",
    [check, repair, grow, dump, lambda device: list(iter_dump(device))],
    ids=["check", "repair", "grow", "dump", "iter_dump"],
)
def test_a_device_that_was_given_stays_open(
    use: Callable[[MemoryDevice], object], tmp_path: Path
) -> None:
    Blobstore.create(tmp_path / "a.img", size=8 * MIB).close()
    with MemoryDevice(8 * MIB) as device:
        device.write(0, [(tmp_path / "a.img").read_bytes()])
        use(device)
        assert not device.closed


class _Failing(MemoryDevice):
    """Its `close` fails, as that of a network device may."""

    def close(self) -> None:
        super().close()
        raise DeviceError("it is gone")


def test_all_devices_are_closed_also_when_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "parent.img"
    path.write_bytes(bytes(MIB))
    store = Blobstore.create(_Failing(8 * MIB))
    store.register_external(b"one", path)
    (external,) = store._session.externals
    with pytest.raises(DeviceError, match="gone"):
        store.close()
    assert external.closed


def test_a_store_that_cannot_be_read_back_when_it_is_made_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = MemoryDevice(16 * MIB)

    async def fail(_core: object) -> None:
        raise DeviceError("cannot be read")

    monkeypatch.setattr("blobstore.api.volumes.load_volume_store", fail)
    with pytest.raises(DeviceError, match="cannot be read"):
        VolumeStore.create(device, name="lvs", cluster_size="1MiB")
    assert device.closed


def test_two_threads_that_want_one_volume_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with VolumeStore.create(MemoryDevice(16 * MIB), name="lvs", cluster_size="1MiB") as store:
        store.create_volume("disk").close()
        kept: list[Volume] = []
        plain = VolumeStore._open

        def open_late(self: VolumeStore, record: VolumeRecord) -> Volume:
            opened = plain(self, record)
            if not kept:
                kept.append(opened)
                kept[0] = store["disk"]  # as another thread does meanwhile
            return opened

        monkeypatch.setattr(VolumeStore, "_open", open_late)
        assert store["disk"] is kept[0]
        store.delete_volume("disk")
        assert not list(store)
