"""What happens to those above and beside a device, a store or a volume that is removed."""

import errno
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from blobstore import VolumeStore
from blobstore.operations import Buffer
from blobstore.rpc.server import RpcServer
from tests.replay import ReplayDevice
from tests.rpc.client import Client
from tests.rpc.test_examination import FaultyBdev
from tests.rpc.test_lvol_methods import MIB, described, failed, refused

MIBS_64 = 131072


def store_on(client: Client, bdev: str, name: str) -> None:
    client("bdev_malloc_create", name=bdev, num_blocks=MIBS_64, block_size=512)
    client("bdev_lvol_create_lvstore", bdev_name=bdev, lvs_name=name, cluster_sz=MIB)


def create(client: Client, store: str, name: str, size: int = 4) -> None:
    given = {"lvol_name": name, "size_in_mib": size, "thin_provision": True, "lvs_name": store}
    client("bdev_lvol_create", **given)


@pytest.fixture
def read_elsewhere(client: Client) -> None:
    """A volume `a/v`, which a clone in the store `b` on another device reads."""
    store_on(client, "below_a", "a")
    store_on(client, "below_b", "b")
    create(client, "a", "v")
    client("bdev_lvol_clone_bdev", bdev="a/v", lvs_name="b", clone_name="c")


@pytest.mark.usefixtures("read_elsewhere")
def test_what_clones_of_another_store_read_is_not_removed(client: Client) -> None:
    busy = errno.EBUSY
    assert client("bdev_malloc_delete", name="below_a") == refused(busy)
    assert client("bdev_lvol_delete_lvstore", lvs_name="a") == failed(busy)
    assert client("bdev_lvol_delete", name="a/v") == failed(busy, -32603)
    assert described(client, "a/v")["claim_type"] == "read_many_write_none"
    assert described(client, "b/c")["driver_specific"]["lvol"]["esnap_clone"] is True
    assert client("bdev_malloc_delete", name="below_b") is True
    assert client("bdev_malloc_delete", name="below_a") is True


def test_a_store_goes_with_the_clones_in_it_that_read_it(client: Client) -> None:
    store_on(client, "below", "outer")
    create(client, "outer", "e")
    create(client, "outer", "v", 32)
    client("bdev_lvol_create_lvstore", bdev_name="outer/v", lvs_name="inner", cluster_sz=MIB)
    client("bdev_lvol_clone_bdev", bdev="outer/e", lvs_name="inner", clone_name="c")
    assert client("bdev_malloc_delete", name="below") is True
    assert client("bdev_get_bdevs") == client("bdev_lvol_get_lvstores") == []


def test_a_device_that_fails_is_removed_with_all_that_is_on_it(
    server: RpcServer, client: Client
) -> None:
    device = ReplayDevice(64 * MIB)
    server.target.stores.register(FaultyBdev("below", device))
    client("bdev_lvol_create_lvstore", bdev_name="below", lvs_name="lvs", cluster_sz=MIB)
    for name in ("v", "w"):
        create(client, "lvs", name)
    device.fails, device.changes_left = True, 0
    bdev = server.target.table.find("below")
    assert bdev is not None
    with pytest.raises(OSError, match="told to"):
        server.target.stores.remove_bdev(bdev)
    assert client("bdev_get_bdevs") == client("bdev_lvol_get_lvstores") == []


def test_a_snapshot_stays_one_until_the_store_is_loaded_again(
    client: Client, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 64 * MIB)
    aio = {"name": "aio0", "filename": str(image), "block_size": 4096}
    client("bdev_aio_create", **aio)
    client("bdev_lvol_create_lvstore", bdev_name="aio0", lvs_name="lvs", cluster_sz=MIB)
    create(client, "lvs", "v")
    client("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
    assert client("bdev_lvol_delete", name="lvs/v") is True

    def is_snapshot() -> set[bool]:
        lvol = described(client, "lvs/s")["driver_specific"]["lvol"]
        assert "clones" not in lvol
        return {lvol["snapshot"], client("bdev_lvol_get_lvols")[0]["is_snapshot"]}

    assert is_snapshot() == {True}
    client("bdev_aio_delete", name="aio0")
    client("bdev_aio_create", **aio)
    assert is_snapshot() == {False}
    client("bdev_lvol_delete", name="lvs/s")
    create(client, "lvs", "s")  # with the same id
    assert is_snapshot() == {False}


def test_a_volume_cannot_read_itself_through_others(client: Client) -> None:
    store_on(client, "below_a", "a")
    store_on(client, "below_b", "b")
    create(client, "a", "v")
    client("bdev_lvol_clone_bdev", bdev="a/v", lvs_name="b", clone_name="c")
    circle = client("bdev_lvol_set_parent_bdev", lvol_name="a/v", parent_name="b/c")
    assert circle == failed(errno.EINVAL)


def test_a_file_that_was_cut_keeps_its_blocks_until_it_is_removed(
    client: Client, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 8 * MIB)
    client("bdev_aio_create", name="aio0", filename=str(image), block_size=512)
    os.truncate(image, 4 * MIB)
    assert client("bdev_aio_rescan", name="aio0") == refused(errno.EBUSY)
    assert described(client, "aio0")["num_blocks"] == 8 * MIB // 512
    os.truncate(image, 0)
    assert client("bdev_aio_rescan", name="aio0") is True
    assert client("bdev_get_bdevs") == []


def test_the_first_check_of_a_copy_of_nothing_tells_its_end(client: Client) -> None:
    store_on(client, "below", "lvs")
    create(client, "lvs", "v")
    client("bdev_lvol_set_read_only", name="lvs/v")
    client("bdev_malloc_create", name="copy", num_blocks=8192, block_size=512)
    for _again in range(5):
        given = {"src_lvol_name": "lvs/v", "dst_bdev_name": "copy"}
        number = client("bdev_lvol_start_shallow_copy", **given)["operation_id"]
        found = client("bdev_lvol_check_shallow_copy", operation_id=number)
        assert found == {"copied_clusters": 0, "total_clusters": 0, "state": "complete"}


class PausedDevice(ReplayDevice):
    """A device whose next write after `pauses` is set waits until it is told to go on."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.pauses = False
        self.reached, self.goes_on = threading.Event(), threading.Event()

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        if self.pauses:
            self.pauses = False
            self.reached.set()
            assert self.goes_on.wait(60)
        super().write(offset, buffers)


def test_a_volume_is_not_deleted_while_it_is_inflated(server: RpcServer, client: Client) -> None:
    device = PausedDevice(64 * MIB)
    server.target.stores.register(FaultyBdev("below", device))
    client("bdev_lvol_create_lvstore", bdev_name="below", lvs_name="lvs", cluster_sz=MIB)
    create(client, "lvs", "v")
    device.pauses = True
    with closing(Client(server.path)) as other, ThreadPoolExecutor(1) as pool:
        inflating = pool.submit(other, "bdev_lvol_inflate", name="lvs/v")
        try:
            assert device.reached.wait(60)
            busy = failed(errno.EBUSY, -32603)
            assert client("bdev_lvol_delete", name="lvs/v") == busy
        finally:
            device.goes_on.set()
        assert inflating.result(60) is True
    assert client("bdev_lvol_delete", name="lvs/v") is True


def test_a_volume_in_use_keeps_its_clusters_when_its_size_is_rounded(client: Client) -> None:
    client("bdev_malloc_create", name="m", num_blocks=MIBS_64 * 2, block_size=512)
    client("bdev_lvol_create_lvstore", bdev_name="m", lvs_name="lvs")
    create(client, "lvs", "v", 40)
    client("bdev_lvol_create_lvstore", bdev_name="lvs/v", lvs_name="inner")
    assert client("bdev_lvol_resize", name="lvs/v", size_in_mib=37) is True
    assert client("bdev_lvol_resize", name="lvs/v", size_in_mib=36) == failed(errno.EBUSY)


def test_a_store_that_is_a_copy_is_named_in_the_log(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, copy = tmp_path / "disk.img", tmp_path / "copy.img"
    VolumeStore.create(image, name="lvs", size="32MiB", cluster_size=MIB).close()
    copy.write_bytes(image.read_bytes())
    for name, path in (("one", image), ("two", copy)):
        client("bdev_aio_create", name=name, filename=str(path), block_size=512)
    assert [found["base_bdev"] for found in client("bdev_lvol_get_lvstores")] == ["one"]
    assert "two: the store on it is not loaded" in caplog.text
    assert described(client, "two")["claimed"] is False
