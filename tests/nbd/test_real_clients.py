"""Programs that others wrote, against the server."""

import logging
import os
import re
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from blobstore import VolumeStore, check
from blobstore.nbd.exports import StoreExports
from blobstore.nbd.nbd_server import NbdServer
from tests.nbd.programs import SYSTEM_PYTHON, answer, call, needs

KIB = 1024
MIB = 1 << 20


def uri(server: NbdServer, export: str = "web") -> str:
    return f"nbd+unix:///{export}?socket={server.address.path}"


@needs("nbdinfo")
def test_nbdinfo_shows_every_export_with_its_size_and_what_it_can(server: NbdServer) -> None:
    listed = answer("nbdinfo", "--list", "--json", uri(server, ""))
    assert [(each["export-name"], each["export-size"]) for each in listed["exports"]] == [
        ("web", 4 * MIB),
        ("monday", 4 * MIB),
    ]
    (web,) = answer("nbdinfo", "--json", uri(server))["exports"]
    able = {name for name, value in web.items() if name.startswith("can_") and value}
    assert able == {
        "can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn",
        "can_trim", "can_zero",
    }  # fmt: skip
    assert not web["is_read_only"]
    assert (web["block_size_minimum"], web["block_size_maximum"]) == (1, 32 * MIB)
    (monday,) = answer("nbdinfo", "--json", uri(server, "monday"))["exports"]
    assert monday["is_read_only"]


@needs("nbdinfo")
@pytest.mark.parametrize(
    ("question", "export", "status"),
    [("write", "web", 0), ("write", "monday", 2), ("multi-conn", "web", 0), ("zero", "monday", 2)],
)
def test_nbdinfo_asks_for_one_ability(
    server: NbdServer, question: str, export: str, status: int
) -> None:
    done = call("nbdinfo", "--can", question, uri(server, export), status=status)
    assert (done.returncode, done.stdout) == (status, "")


@needs("nbdinfo")
def test_nbdinfo_maps_what_extents_say(server: NbdServer, volumes: VolumeStore) -> None:
    random = Random(5)
    with volumes.create_volume("sparse", "32MiB", thin=True) as sparse:
        for _write in range(60):
            sparse.write(b"x", random.randrange(32 * MIB))
        mapped = answer("nbdinfo", "--map", "--json", uri(server, "sparse"))
        assert [
            (each["offset"], each["length"], each["type"] == 0) for each in mapped
        ] == sparse.extents()


@needs("nbdinfo")
def test_a_hole_of_more_than_4_gib_is_one_range_where_the_client_has_extended_headers(
    place: Path,
) -> None:
    size = 5 << 30
    with (
        VolumeStore.create(place / "large.img", name="vms", size="6GiB") as vms,
        vms.create_volume("large", size, thin=True),
        NbdServer(StoreExports(vms), f"unix:{place}/large.sock") as server,
    ):
        if "extended packets" not in call("nbdinfo", uri(server, "large")).stdout:
            pytest.skip("this nbdinfo has no extended headers; that of libnbd 1.18 has")
        mapped = answer("nbdinfo", "--map", "--json", uri(server, "large"))
        assert [(each["offset"], each["length"], each["type"]) for each in mapped] == [(0, size, 3)]


@needs("nbdinfo")
def test_nbdinfo_maps_what_changed_since_a_snapshot(server: NbdServer) -> None:
    changed = answer("nbdinfo", "--map=qemu:dirty-bitmap:monday", "--json", uri(server))
    assert [(each["offset"], each["length"]) for each in changed if each["type"]] == [
        (MIB, 64 * KIB)
    ]
    depths = answer("nbdinfo", "--map=qemu:allocation-depth", "--json", uri(server))
    assert [each["type"] for each in depths] == [0, 2, 0, 1, 0]


@needs("nbdcopy")
def test_nbdcopy_copies_both_ways_and_keeps_holes(
    server: NbdServer, volumes: VolumeStore, place: Path
) -> None:
    with volumes.open_volume("web") as web, volumes.create_volume("new", "4MiB", thin=True) as new:
        call("nbdcopy", uri(server), place / "web.raw")
        assert (place / "web.raw").read_bytes() == web.read(4 * MIB)
        call("nbdcopy", "--flush", place / "web.raw", uri(server, "new"))
        assert new.read(4 * MIB) == web.read(4 * MIB)
        assert new.info.allocated_clusters == 5


@needs("nbd-client")
def test_nbd_client_lists_the_exports(server: NbdServer) -> None:
    listed = call("nbd-client", "-l", "-u", server.address.path).stdout
    assert [line.split(":")[0] for line in listed.splitlines()[1:]] == ["web", "monday"]


@needs("qemu-img")
@pytest.mark.slow
def test_qemu_img_maps_compares_converts_and_benches(
    server: NbdServer, volumes: VolumeStore, place: Path
) -> None:
    mapped = answer("qemu-img", "map", "--output=json", uri(server))
    assert [each["length"] for each in mapped if each["data"]] == [256 * KIB, 64 * KIB]
    copy = place / "web.qcow2"
    call("qemu-img", "convert", "-O", "qcow2", uri(server), copy)
    call("qemu-img", "compare", uri(server), copy)
    volumes.create_volume("back", "4MiB", thin=True).close()
    call("qemu-img", "convert", "-n", "-O", "raw", copy, uri(server, "back"))
    call("qemu-img", "compare", "-f", "raw", "-F", "raw", uri(server), uri(server, "back"))
    call("qemu-img", "compare", uri(server, "monday"), copy, status=1)
    for extra in ([], ["-w"], ["-w", "--flush-interval=100"]):
        call("qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "32", *extra, uri(server))


@needs("qemu-io")
def test_qemu_io_writes_with_fua_zeroes_and_discards(
    server: NbdServer, volumes: VolumeStore
) -> None:
    volumes.create_volume("io", "4MiB", thin=True).close()
    commands = [
        "write -f -P 0x11 0 1M",
        "write -P 0x22 1M 192k",
        "discard 64k 64k",
        "write -z 256k 64k",
        "write -z -u 320k 64k",
        "flush",
        "read -P 0x11 0 64k",
        "read -P 0 64k 64k",
        "read -P 0 256k 128k",
        "read -P 0x22 1M 192k",
        "read -P 0 2M 2M",
    ]
    done = call(
        "qemu-io", "-f", "raw", *(f"-c{command}" for command in commands), uri(server, "io")
    )
    assert "failed" not in done.stdout.lower(), done.stdout
    with volumes.open_volume("io") as volume:
        assert volume.info.allocated_clusters == 16 + 3 - 2


@needs("qemu-io")
def test_qemu_io_is_refused_to_write_to_a_snapshot(server: NbdServer) -> None:
    done = call("qemu-io", "-f", "raw", "-c", "write 0 4k", uri(server, "monday"), status=1)
    assert "Permission denied" in done.stderr


@needs("fio")
@pytest.mark.slow
def test_fio_verifies_what_eight_jobs_write_at_once(
    server: NbdServer, volumes: VolumeStore
) -> None:
    volumes.create_volume("fio", "16MiB", thin=True).close()
    call(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={uri(server, 'fio')}",
        "--rw=randwrite", "--bsrange=512-64k", "--iodepth=16", "--numjobs=8", "--size=2m",
        "--offset_increment=2m", "--verify=crc32c", "--verify_fatal=1", "--fsync=64",
        "--randrepeat=1", "--verify_state_save=0", "--minimal",
    )  # fmt: skip
    with volumes.open_volume("fio") as volume:
        assert volume.info.allocated_clusters > 0


IN_FLIGHT = """
import nbd, random, sys
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
chance, blocks, cookies = random.Random(7), {}, {}
def wait(limit):
    while handle.aio_in_flight() > limit:
        handle.poll(-1)
        for cookie in [c for c in cookies if handle.aio_command_completed(c)]:
            del cookies[cookie]
for step in range(3000):
    at = chance.randrange(512)
    data = chance.randbytes(4096)
    if at not in cookies.values():
        cookies[handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at * 4096)] = at
        blocks[at] = data
    most = max(globals().get("most", 0), handle.aio_in_flight())
    wait(63)
wait(0)
handle.flush()
assert most == 64, most
buffers = {at: nbd.Buffer(4096) for at in blocks}
for at, buffer in buffers.items():
    cookies[handle.aio_pread(buffer, at * 4096)] = at
    wait(63)
wait(0)
assert all(bytes(buffers[at].to_bytearray()) == data for at, data in blocks.items())
handle.shutdown()
print("ok")
"""


def has_libnbd() -> bool:
    if not Path(SYSTEM_PYTHON).exists():
        return False
    asked = [SYSTEM_PYTHON, "-c", "import nbd; nbd.NBD"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_libnbd(), reason="not installed: python3-libnbd")
def test_libnbd_has_64_requests_in_flight_and_reads_what_it_wrote(server: NbdServer) -> None:
    done = call(SYSTEM_PYTHON, "-", uri(server), given=IN_FLIGHT)
    assert done.stdout == "ok\n"


@needs("nbdkit", "nbdinfo", "nbdcopy")
def test_nbdkit_puts_its_filters_in_front(server: NbdServer, place: Path) -> None:
    copied = place / "offset.raw"
    call(
        "nbdkit", "-U", "-", "--filter=offset", "nbd", uri(server), "offset=64K", "range=256K",
        "--run", f'nbdinfo --size "$uri" && nbdcopy "$uri" {copied}',
    )  # fmt: skip
    assert copied.read_bytes() == bytes(range(256)) * 1024


@needs("qemu-io", "nbdcopy")
def test_an_incremental_copy_by_the_map_of_changes_is_whole(
    server: NbdServer, volumes: VolumeStore, place: Path
) -> None:
    call("nbdcopy", uri(server, "monday"), place / "copy.raw")
    changed = answer("nbdinfo", "--map=qemu:dirty-bitmap:monday", "--json", uri(server))
    with volumes.open_volume("web") as web, open(place / "copy.raw", "r+b") as copy:
        for part in changed:
            if part["type"]:
                copy.seek(part["offset"])
                copy.write(web.read(part["length"], part["offset"]))
        copy.flush()
        assert (place / "copy.raw").read_bytes() == web.read(4 * MIB)


@needs("nbdinfo", "nbdcopy", "qemu-img", "qemu-io")
def test_clients_that_end_in_order_leave_no_warning_in_the_log(
    server: NbdServer, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _time in range(5):
            call("nbdinfo", "--list", uri(server, ""))
        call("nbdinfo", "--size", uri(server))
        call("nbdinfo", "--size", uri(server, "none"), status=1)
        call("nbdcopy", uri(server), place / "web.raw")
        call("nbdcopy", place / "web.raw", uri(server))
        call("qemu-img", "info", uri(server))
        call("qemu-img", "info", uri(server, "none"), status=1)
        call("qemu-io", "-f", "raw", "-c", "write 0 64k", "-c", "read 0 64k", uri(server))
        server.close()
    said = re.compile(r"pid \d+: export '(web' opened|web' closed|none' refused: .*)")
    assert [line for line in caplog.messages if not said.fullmatch(line)] == []
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_a_store_that_was_served_is_clean_afterwards(place: Path) -> None:
    with VolumeStore.create(place / "a.img", name="a", size="64MiB", cluster_size="64KiB") as store:
        store.create_volume("web", "4MiB", thin=True).close()
        with NbdServer(StoreExports(store), f"unix:{place}/a.sock") as server:
            call("qemu-io", "-f", "raw", "-c", "write -P 7 0 4M", uri(server))
    assert check(place / "a.img").clean


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
@needs("nbdfuse", "fusermount3")
def test_nbdfuse_shows_an_export_as_a_file(
    server: NbdServer, volumes: VolumeStore, place: Path
) -> None:
    file, ready = place / "web.raw", place / "nbdfuse.pid"
    file.touch()
    command = ["nbdfuse", "--pidfile", str(ready), str(file), uri(server)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            while not ready.exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            with volumes.open_volume("web") as web:
                assert file.read_bytes() == web.read(4 * MIB)
                with open(file, "r+b") as shown:
                    shown.write(b"through a file")
                assert web.read(14) == b"through a file"
        finally:
            subprocess.run(["fusermount3", "-u", str(file)], check=False, capture_output=True)
            process.wait(60)
