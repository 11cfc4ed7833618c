"""The NBD client as a device, on real servers."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.api.blobstore import Blobstore
from blobstore.api.check import check, repair
from blobstore.api.volumes import VolumeStore
from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.device.file import FileDevice
from blobstore.errors import (
    AccessError,
    DeviceError,
    DeviceFullError,
    InvalidArgumentError,
    NotFoundError,
    PathNotFoundError,
    PoisonedError,
    ReadOnlyError,
    UnsupportedError,
)
from blobstore.nbd.client_device import NbdDevice
from blobstore.testing.device_contract import MINIMUM_SIZE, ReadOnlyContract, pattern
from blobstore.units import MIB
from tests.cli.runner import run_process
from tests.nbd.certificates import make_certificates
from tests.nbd.servers import Served, nbdkit, qemu_nbd

BLOCKS_OF_4096 = (
    "--filter=blocksize-policy", "memory", "8M", "blocksize-minimum=4096",
    "blocksize-maximum=64K", "blocksize-error-policy=error",
)  # fmt: skip
"""A server that takes whole blocks of 4096 bytes alone, and at most 64 KiB at once."""
WITHOUT_ZEROES = "--filter=nozero", "memory", "8M"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    FileDevice.create(path, 16 * MIB).close()
    return path


# The contract. A server is started once for all of its tests, which expect nothing of the content.


class Contract(ReadOnlyContract):
    @pytest.fixture
    def device(self, address: str) -> Iterator[Device]:
        with open_device(address, read_only=False) as device:
            yield device

    @pytest.fixture
    def read_only_device(self, address: str) -> Iterator[Device]:
        with open_device(address, read_only=True) as device:
            yield device


@pytest.fixture(scope="module")
def on_nbdkit() -> Iterator[Served]:
    with nbdkit("memory", MINIMUM_SIZE) as served:
        yield served


@pytest.fixture(scope="module")
def on_qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("image") / "disk.img"
    FileDevice.create(path, MINIMUM_SIZE).close()
    with qemu_nbd(path) as served:
        yield served


@pytest.fixture(scope="module")
def in_blocks() -> Iterator[Served]:
    with nbdkit(*BLOCKS_OF_4096) as served:
        yield served


@pytest.fixture(scope="module")
def without_zeroes() -> Iterator[Served]:
    with nbdkit(*WITHOUT_ZEROES) as served:
        yield served


class TestOnNbdkit(Contract):
    @pytest.fixture
    def address(self, on_nbdkit: Served) -> str:
        return on_nbdkit.address


class TestOnQemuNbd(Contract):
    @pytest.fixture
    def address(self, on_qemu: Served) -> str:
        return on_qemu.address


class TestOnAServerOfWholeBlocks(Contract):
    @pytest.fixture
    def address(self, in_blocks: Served) -> str:
        return in_blocks.address


class TestOnAServerThatCannotZero(Contract):
    @pytest.fixture
    def address(self, without_zeroes: Served) -> str:
        return without_zeroes.address


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    make_certificates(directory)
    return directory


@pytest.fixture(scope="module")
def encrypted(certificates: Path) -> Iterator[Served]:
    with nbdkit(
        "--tls=require", "--tls-verify-peer", f"--tls-certificates={certificates}", "memory", "8M",
        scheme="nbds+unix", query=f"&tls-certificates={certificates}",
    ) as served:  # fmt: skip
        yield served


class TestEncrypted(Contract):
    @pytest.fixture
    def address(self, encrypted: Served) -> str:
        return encrypted.address


# The measures


def test_block_sizes_are_the_servers() -> None:
    with nbdkit(*BLOCKS_OF_4096) as served:
        with open_device(served.address, read_only=False) as device:
            assert (device.block_size, device.physical_block_size) == (4096, 4096)
        with pytest.raises(InvalidArgumentError, match="multiple of the server's 4096"):
            open_device(served.address, read_only=False, block_size=512)


def test_what_a_server_prefers_is_no_size_of_pages() -> None:
    with (
        nbdkit("--filter=blocksize-policy", "memory", "64M", "blocksize-preferred=1M") as served,
        Blobstore.create(served.address) as store,
    ):
        assert store.info.page_size == 4096


def test_a_device_of_no_size_holds_no_store() -> None:
    with nbdkit("memory", 0) as served:
        with open_device(served.address, read_only=False) as device:
            assert device.size_bytes == 0
        with pytest.raises(OSError, match="the device has 0 B"):
            Blobstore.create(served.address)


def test_a_store_uses_an_export_that_has_grown_when_it_is_opened_again(image: Path) -> None:
    with qemu_nbd(image) as served:
        Blobstore.create(served.address).close()
    os.truncate(image, 32 * MIB)
    with qemu_nbd(image) as served, Blobstore.open(served.address) as store:
        before = store.free_clusters
        store.grow()
        assert store.free_clusters == before + 16


def test_a_store_is_not_opened_on_an_export_that_has_shrunk(image: Path) -> None:
    with qemu_nbd(image) as served:
        Blobstore.create(served.address).close()
    os.truncate(image, 8 * MIB)
    with qemu_nbd(image) as served, pytest.raises(OSError, match="8388608"):
        Blobstore.open(served.address)


# What cannot be opened


def test_an_address_that_leads_nowhere_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match="No such file"):
        open_device(f"nbd+unix:///?socket={tmp_path}/absent", read_only=True)
    with nbdkit("--filter=exportname", "memory", "1M", "exportname=disk",
                "exportname-strict=true") as served:  # fmt: skip
        address = served.address.replace("///", "///absent")
        with pytest.raises(NotFoundError, match="no export 'absent'"):
            open_device(address, read_only=True)


def test_a_port_where_no_server_listens_is_an_error_of_the_device() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(DeviceError, match="connect: Connection refused") as caught:
            open_device(f"nbd://127.0.0.1:{port}/disk", read_only=True)
    assert caught.value.errno == errno.ECONNREFUSED


def test_a_host_without_an_address_is_an_error_of_the_device() -> None:
    with pytest.raises(DeviceError, match="connect"):
        open_device("nbd://host.invalid/disk", read_only=True)


def test_an_export_that_is_read_only_is_read_and_never_written() -> None:
    with nbdkit("-r", "memory", "8M") as served:
        with pytest.raises(ReadOnlyError, match="the export is read-only"):
            open_device(served.address, read_only=False)
        with open_device(served.address, read_only=True) as device:
            assert device.read(0, 512) == bytes(512)


def test_direct_io_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no direct"):
        open_device("nbd://host/disk", read_only=True, direct=True)


# TCP


def test_a_store_is_reached_over_tcp(image: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with qemu_nbd(image, port=port):
        address = f"nbd://127.0.0.1:{port}/"
        with Blobstore.create(address) as store:
            store.create_blob(size=MIB).write(b"over TCP")
        assert check(address).clean


# Encryption


def test_an_encrypted_store_is_reached_with_certificates(encrypted: Served) -> None:
    with VolumeStore.create(
        encrypted.address, name="vms", cluster_size="1MiB", overwrite=True
    ) as vms:
        vms.create_volume("web", size="1MiB").write(pattern(MIB))
    with VolumeStore.open(encrypted.address, read_only=True) as vms:
        assert vms["web"].read(MIB) == pattern(MIB)


def test_a_server_that_requires_encryption_gets_none_of_a_client_that_does_not(
    encrypted: Served,
) -> None:
    address = encrypted.address.replace("nbds", "nbd").partition("&")[0]
    with pytest.raises(AccessError, match="requires encryption"):
        open_device(address, read_only=True)


def test_a_client_that_requires_encryption_leaves_a_server_that_has_none(
    certificates: Path,
) -> None:
    query = f"&tls-certificates={certificates}"
    with (
        nbdkit("memory", "8M", scheme="nbds+unix", query=query) as served,
        pytest.raises(DeviceError, match="does not encrypt"),
    ):
        open_device(served.address, read_only=True)


def test_a_certificate_of_another_host_is_refused(encrypted: Served) -> None:
    with pytest.raises(DeviceError, match="TLS: Hostname mismatch"):
        open_device(f"{encrypted.address}&tls-hostname=storage.example", read_only=True)


def test_a_certificate_of_an_unknown_authority_is_refused(encrypted: Served) -> None:
    with pytest.raises(DeviceError, match=r"TLS: .*certificate"):
        open_device(encrypted.address.partition("&")[0], read_only=True)


def test_a_client_without_a_certificate_is_refused_by_a_server_that_asks_for_one(
    encrypted: Served, certificates: Path, tmp_path: Path
) -> None:
    shutil.copy(certificates / "ca-cert.pem", tmp_path)
    address = encrypted.address.partition("&")[0] + f"&tls-certificates={tmp_path}"
    with pytest.raises(DeviceError):
        open_device(address, read_only=True)


def test_a_directory_without_certificates_is_an_error(tmp_path: Path, encrypted: Served) -> None:
    address = encrypted.address.partition("&")[0] + f"&tls-certificates={tmp_path}"
    with pytest.raises(NotFoundError, match=r"ca-cert\.pem"):
        open_device(address, read_only=True)


@pytest.mark.slow
def test_threads_send_and_receive_at_once_inside_the_encryption(encrypted: Served) -> None:
    with open_device(encrypted.address, read_only=False) as device:
        _write_and_read_in_threads(device)


# Threads


@pytest.mark.slow
def test_threads_share_a_connection() -> None:
    with nbdkit("memory", "8M") as served, open_device(served.address, read_only=False) as device:
        _write_and_read_in_threads(device)


def _write_and_read_in_threads(device: Device) -> None:
    """Each thread owns a mebibyte, and finds what it wrote."""
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(20):
            content = pattern(MIB - 4096 * turn, seed=8 * turn + number)
            device.write(number * MIB, [content])
            if device.read(number * MIB, len(content)) != content:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_two_writes_into_one_block_of_the_server_are_both_there() -> None:
    """The server takes 4096 bytes alone: each write reads, changes and writes back."""
    with nbdkit(*BLOCKS_OF_4096) as served, open_device(served.address, read_only=False) as device:

        def work(number: int) -> None:
            for turn in range(100):
                device.write(number * 512, [bytes([turn]) * 512])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert device.read(0, 4096) == bytes([99]) * 4096


# Errors of the server


def test_errors_of_the_server_are_typed_and_end_nothing_else(tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    with (
        nbdkit("--filter=error", "memory", "8M", "error-pread=EIO", "error-pwrite=ENOSPC",
               "error-rate=100%", f"error-file={trigger}") as served,
        open_device(served.address, read_only=False) as device,
    ):  # fmt: skip
        device.write(0, [pattern(4096)])
        trigger.touch()
        with pytest.raises(DeviceError, match="read of 512 bytes at 1024: the server") as caught:
            device.read(1024, 512)
        assert caught.value.errno == errno.EIO
        with pytest.raises(DeviceFullError, match="write of 4096 bytes at 0"):
            device.write(0, [bytes(4096)])
        trigger.unlink()
        assert device.read(0, 4096) == pattern(4096)


def eval_server(directory: Path, *more: str) -> tuple[str, ...]:
    """A server of shell scripts on a file; it has no FLUSH unless told."""
    disk = directory / "disk"
    FileDevice.create(disk, 16 * MIB).close()
    return (
        "eval",
        f"get_size=stat -c %s {disk}",
        f"pread=dd if={disk} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none",
        f"pwrite=dd of={disk} oflag=seek_bytes seek=$4 conv=notrunc status=none",
        "can_write=exit 0",
        *more,
    )


def test_a_server_that_cannot_make_writes_durable_keeps_no_store(tmp_path: Path) -> None:
    with nbdkit(*eval_server(tmp_path)) as served:
        with pytest.raises(UnsupportedError, match="no write is durable"):
            open_device(served.address, read_only=False)
        with open_device(served.address, read_only=True) as device:
            assert device.read(0, 512) == bytes(512)


def test_a_server_with_fua_alone_gets_it_with_every_change(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        nbdkit("--filter=log", "memory", "8M", f"logfile={log}") as served,
        NbdDevice.open(served.address) as device,
    ):
        device._has_flush, device._flags = False, type(device._flags).FUA
        device.write(0, [bytes(512)])
        device.write_zeroes(0, 4096)
        device.unmap(0, 4096)
        device.flush()
    lines = log.read_text().splitlines()
    changes = [line for line in lines if " Write " in line or " Zero " in line or " Trim " in line]
    assert len(changes) == 3
    assert all("fua=1" in line for line in changes)
    assert not any("Flush" in line for line in lines)


@pytest.mark.slow
def test_a_flush_that_fails_poisons_the_store(tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    flush = f"flush=if [ -e {trigger} ]; then echo EIO >&2; exit 1; fi"
    with nbdkit(*eval_server(tmp_path, "can_flush=exit 0", flush)) as served:
        store = Blobstore.create(served.address)
        blob = store.create_blob(size=MIB)
        trigger.touch()
        with pytest.raises(DeviceError, match="flush: the server answers"):
            blob.flush()
        trigger.unlink()
        with pytest.raises(PoisonedError):
            store.create_blob(size=MIB)
        with pytest.raises(PoisonedError):
            store.close()


# Lost connections and power cuts


def test_a_lost_connection_stays_lost() -> None:
    with nbdkit("memory", "8M") as served, open_device(served.address, read_only=False) as device:
        device.write(0, [bytes(512)])
        served.kill()
        for request in (lambda: device.read(0, 512), device.flush, lambda: device.unmap(0, 512)):
            with pytest.raises(DeviceError, match="connection lost"):
                request()
        assert device.size_bytes == 8 * MIB


def test_a_store_whose_server_was_killed_is_poisoned_and_recovers_on_the_next(image: Path) -> None:
    with qemu_nbd(image) as served:
        store = Blobstore.create(served.address)
        blob = store.create_blob(size=2 * MIB)
        blob.write(pattern(MIB))
        blob.flush()
        served.kill()
        with pytest.raises(DeviceError, match="connection lost"):
            blob.write(b"lost", offset=0)
        with pytest.raises(DeviceError):
            store.flush()
        with pytest.raises(PoisonedError):
            store.close()
    with qemu_nbd(image) as served:
        with Blobstore.open(served.address) as store, store.open_blob(blob.id) as again:
            assert again.read(MIB) == pattern(MIB)
        report = check(served.address)
        assert report.clean, report.findings


def test_what_was_flushed_survives_a_server_that_loses_its_cache(image: Path) -> None:
    """nbdkit's cache filter keeps what it has not been told to flush in memory of its own."""
    cached = "--filter=cache", "file", image
    with nbdkit(*cached) as served:
        with Blobstore.create(served.address) as store:
            blob_id = store.create_blob(size=4 * MIB).id
        store = Blobstore.open(served.address)
        blob = store.open_blob(blob_id)
        blob.write(pattern(MIB, seed=1), offset=0)
        blob.flush()
        flushed = store.create_blob(size=MIB).id
        blob.write(pattern(MIB, seed=2), offset=MIB)
        assert blob.read(MIB, offset=MIB) == pattern(MIB, seed=2)
        served.kill()
        with pytest.raises(PoisonedError):
            _flush_and_close(store)
    with nbdkit("file", image) as served:
        report = check(served.address)
        assert report.clean, report.findings
        with Blobstore.open(served.address) as store, store.open_blob(blob_id) as blob:
            assert blob.read(MIB, offset=0) == pattern(MIB, seed=1)
            assert blob.read(MIB, offset=MIB) != pattern(MIB, seed=2)  # so the cut was one
            assert flushed in store.blob_ids()


def _flush_and_close(store: Blobstore) -> None:
    with pytest.raises(DeviceError):
        store.flush()
    store.close()


def test_a_forked_child_closes_its_copy_and_its_parent_goes_on() -> None:
    with nbdkit("memory", "8M") as served, NbdDevice.open(served.address) as device:
        device.write(0, [b"parent"])
        child = os.fork()
        if child == 0:
            os._exit(0 if device.closed else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert device.read(0, 6) == b"parent"


# The command line


@pytest.mark.slow
def test_commands_take_addresses(image: Path) -> None:
    with qemu_nbd(image) as served:
        address = served.address
        assert run_process("init", address, "--volumes", "vms").status == 0
        assert run_process("info", address, "--json").json["name"] == "vms"
        assert run_process("check", address).status == 0
    assert run_process("info", str(image), "--json").json["name"] == "vms"


@pytest.mark.slow
def test_an_export_is_the_external_snapshot_of_a_clone_and_the_target_of_a_copy(
    image: Path, tmp_path: Path
) -> None:
    FileDevice.create(tmp_path / "copy.img", 4 * MIB).close()
    with nbdkit("pattern", "4M") as parent, qemu_nbd(tmp_path / "copy.img") as target:
        with Blobstore.create(image) as store:
            store.register_external(b"parent", parent.address)
            with store.create_blob(external_snapshot=b"parent", size=4 * MIB) as clone:
                clone.write(b"changed", offset=MIB)
                expected = clone.read(4 * MIB)
                clone_id = clone.id
        given = "--external", f"parent={parent.address}"
        given = "--external", f"parent={parent.address}"
        assert run_process("read", str(image), str(clone_id), *given).stdout == expected
        assert run_process("set-read-only", str(image), str(clone_id)).status == 0
        copied = run_process("shallow-copy", str(image), str(clone_id), target.address, *given)
        assert (copied.status, copied.stderr) == (0, "")
        with open_device(target.address, read_only=True) as device:
            assert device.read(0, 4 * MIB) == bytes(MIB) + expected[MIB : 2 * MIB] + bytes(2 * MIB)
    assert expected[:8] == bytes(8)
    assert expected[8:16] == (8).to_bytes(8, "big")


def test_a_repair_over_the_network_must_be_told_where_its_undo_file_goes(
    image: Path, tmp_path: Path
) -> None:
    Blobstore.create(image).close()
    with open(image, "r+b") as file:
        file.seek(2 * 4096 + 6)
        file.write(b"\xff")  # clusters 8 to 15 are in use, the mask says, but no blob has them
    with qemu_nbd(image) as served:
        assert not check(served.address).clean
        with pytest.raises(InvalidArgumentError, match="in no directory"):
            repair(served.address)
        assert repair(served.address, undo=tmp_path / "undo").after.clean
        assert (tmp_path / "undo").exists()


def test_importing_the_package_or_opening_a_file_imports_no_network(image: Path) -> None:
    Blobstore.create(image).close()
    script = (
        "import sys, blobstore; blobstore.Blobstore.open(sys.argv[1], read_only=True).close();"
        "print([name for name in ('ssl', 'blobstore.nbd', 'urllib.parse') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(image)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
