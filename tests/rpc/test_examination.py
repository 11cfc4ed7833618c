"""Which stores and volumes appear when a device comes, when memory is short or ids are damaged."""

import errno
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from blobstore import DeviceError, VolumeStore
from blobstore.device.base import Device
from blobstore.rpc.bdevs import WRITE_ONE, BaseBdev
from blobstore.rpc.server import RpcServer
from tests.replay import ReplayDevice
from tests.rpc.client import Client
from tests.rpc.command import running
from tests.rpc.test_lvol_methods import described

MIB = 1 << 20
FIRST = UUID("a27fd8fe-d4b9-431e-a044-271016228ce4")
SECOND = UUID("b27fd8fe-d4b9-431e-a044-271016228ce4")


class FaultyDevice(ReplayDevice):
    """A device whose reads of a range fail a number of times, for want of memory if not told."""

    def __init__(self, content: bytes) -> None:
        super().__init__(len(content))
        self.write(0, [content])
        self.failing = range(0)
        self.failures_left = 0
        self.number = errno.ENOMEM

    def read(self, offset: int, length: int) -> bytes:
        self._fail(offset, length)
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._fail(offset, sum(map(len, buffers)))
        super().read_into(offset, buffers)

    def _fail(self, offset: int, length: int) -> None:
        is_there = offset < self.failing.stop and self.failing.start < offset + length
        if is_there and self.failures_left:
            self.failures_left -= 1
            raise DeviceError(f"read at {offset}", errno=self.number)


class FaultyBdev(BaseBdev):
    """A block device that cannot be opened a number of times, or whose device fails."""

    product_name = "Test disk"
    io_types = frozenset({"read", "write"})

    def __init__(self, name: str, device: Device, uuid: UUID | None = None) -> None:
        super().__init__(name, uuid, device, device.block_size)
        self.failures_left = 0

    def specific(self) -> dict[str, object]:
        return {}

    def open_device(self) -> Device:
        if self.failures_left:
            self.failures_left -= 1
            raise DeviceError(f"{self.name}: open", errno=errno.ENOMEM)
        return super().open_device()


def image_of(count: int) -> tuple[bytes, list[int]]:
    """Return a store `lvs` with volumes v0, v1, ..., and where the root of each is."""
    device = ReplayDevice(32 * MIB)
    with VolumeStore.create(device, name="lvs", cluster_size=MIB) as vms:
        ids = [vms.create_volume(f"v{number}", MIB).id for number in range(count)]
        start, page_size = vms.info.md_start, vms.info.page_size
    roots = [(start + (each & 0xFFFF_FFFF)) * page_size for each in ids]
    return device.read(0, device.size_bytes), roots


def listed(client: Client) -> list[str]:
    return [found["name"] for found in client("bdev_lvol_get_lvols")]


@pytest.mark.parametrize(
    ("failures", "found"), [(2, ["v0", "v1", "v3", "v2"]), (4, ["v0", "v1", "v3"])]
)
def test_a_volume_for_which_there_was_no_memory_is_opened_again_after_the_others(
    server: RpcServer, client: Client, failures: int, found: list[str]
) -> None:
    image, roots = image_of(4)
    device = FaultyDevice(image)
    bdev = FaultyBdev("small", device)
    volumes = VolumeStore.open(bdev.open_device())
    device.failing, device.failures_left = range(roots[2], roots[2] + 1), failures  # 2 an opening
    bdev.claim_for(WRITE_ONE)
    server.target.stores.register(bdev)
    server.target.stores.adopt(volumes, bdev)
    assert listed(client) == found
    assert [each["aliases"][0] for each in client("bdev_get_bdevs")[1:]] == [
        f"lvs/{name}" for name in found
    ]


def test_a_store_that_is_not_loaded_for_want_of_memory_is_told(
    server: RpcServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    image, _roots = image_of(1)
    device = FaultyDevice(image)
    device.failing, device.failures_left = range(1), 1
    bdev = FaultyBdev("small", device)
    server.target.stores.register(bdev)
    assert client("bdev_lvol_get_lvstores") == []
    assert "small: the store on it is not loaded" in caplog.text
    server.target.stores.examine(bdev)
    assert listed(client) == ["v0"]


def test_a_hot_plugged_snapshot_that_cannot_be_opened_leaves_only_its_clones_degraded(
    server: RpcServer, client: Client
) -> None:
    device = ReplayDevice(32 * MIB)
    with VolumeStore.create(device, name="lvs", cluster_size=MIB) as vms:
        for name, uuid in (("v0", FIRST), ("v1", FIRST), ("v2", SECOND)):
            vms.create_volume(name, MIB, external_snapshot=uuid)
    server.target.stores.register(FaultyBdev("base", device))
    late = FaultyBdev("late", ReplayDevice(MIB), FIRST)
    late.failures_left = 100
    server.target.stores.register(late, is_blank=True)
    assert late.failures_left == 98  # once for each of its clones
    server.target.stores.register(FaultyBdev("second", ReplayDevice(MIB), SECOND))
    found = {each["name"]: each["is_degraded"] for each in client("bdev_lvol_get_lvols")}
    assert found == {"v0": True, "v1": True, "v2": False}
    late.failures_left = 0
    server.target.stores.register(FaultyBdev("third", ReplayDevice(MIB)))
    assert client("bdev_lvol_get_lvols")[0]["is_degraded"]
    assert described(client, "lvs/v2")["driver_specific"]["lvol"]["esnap_clone"] is True


@pytest.mark.parametrize(
    "external_id",
    [
        pytest.param(str(FIRST).encode(), id="36 bytes without a NUL"),
        pytest.param(b"g" + str(FIRST).encode()[1:] + b"\0", id="a bad digit"),
        pytest.param(str(FIRST).encode() + b"\0\0", id="38 bytes"),
        pytest.param(FIRST.hex.encode().ljust(37, b"\0"), id="no hyphens"),
        pytest.param(b"x", id="one byte"),
    ],
)
def test_a_clone_whose_external_snapshot_is_no_uuid_is_not_opened(
    server: RpcServer, client: Client, external_id: bytes
) -> None:
    device = ReplayDevice(32 * MIB)
    with VolumeStore.create(device, name="lvs", cluster_size=MIB) as vms:
        vms.create_volume("bad", MIB, external_snapshot=external_id)
        vms.create_volume("good", MIB, external_snapshot=FIRST)
    server.target.stores.register(FaultyBdev("base", device))
    assert [(v["name"], v["is_degraded"]) for v in client("bdev_lvol_get_lvols")] == [
        ("good", True)
    ]
    assert client("bdev_lvol_delete_lvstore", lvs_name="lvs") is True


def test_nothing_is_found_on_devices_that_are_not_to_be_examined(tmp_path: Path) -> None:
    with running(tmp_path, "--wait-for-rpc") as (_process, client):
        client("bdev_set_options", bdev_auto_examine=False)
        client("framework_start_init")
        for name in ("a", "b"):
            client("bdev_malloc_create", name=name, num_blocks=131072, block_size=512)
        client("bdev_lvol_create_lvstore", bdev_name="a", lvs_name="outer")
        inner = {"lvol_name": "v", "size_in_mib": 32, "lvs_name": "outer"}
        uuid = client("bdev_lvol_create", **inner)
        client("bdev_lvol_create_lvstore", bdev_name=uuid, lvs_name="inner")
        client("bdev_lvol_snapshot", lvol_name="outer/v", snapshot_name="s")
        names = [found["name"] for found in client("bdev_lvol_get_lvstores")]
        assert names == ["outer", "inner"]


def test_the_permission_to_examine_a_device_ends_with_the_device(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB):
        pass
    given = {"name": "a", "filename": str(image), "block_size": 512}
    with running(tmp_path, "--wait-for-rpc") as (_process, client):
        client("bdev_set_options", bdev_auto_examine=False)
        client("framework_start_init")
        assert client("bdev_examine", name="a") is True
        for found in (1, 0):
            client("bdev_aio_create", **given)
            assert len(client("bdev_lvol_get_lvstores")) == found
            assert client("bdev_aio_delete", name="a") is True
