"""A Ceph cluster of one monitor, one manager and one OSD in memory, on loopback.

It is up in about 8 s and takes 350 MB. The kernel ends its daemons when the process that
started them ends, however that happens.
"""

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from blobstore.device.rbd_cluster import ceph_modules
from blobstore.errors import UnsupportedError
from blobstore.units import MIB

PROGRAMS: Final = ("ceph-mon", "ceph-mgr", "ceph-osd", "monmaptool", "setpriv")
POOL: Final = "vms"
WATCH_TIMEOUT_S: Final = 5
_START_S: Final = 120
_STOP_S: Final = 20

_CONFIGURATION: Final = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind msgr1 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail warn = 1
mon data avail crit = 1
mgr initial modules =
osd objectstore = memstore
memstore device bytes = 4294967296
osd client watch timeout = {watch_timeout}
mon data = {directory}/mon
mgr data = {directory}/mgr
osd data = {directory}/osd
run dir = {directory}
log file = /dev/null
mon cluster log file = /dev/null

[mon]
admin socket = {directory}/mon.asok
[mgr]
admin socket = {directory}/mgr.asok
[osd]
admin socket = {directory}/osd.asok
"""


@dataclass
class CephCluster:
    """A cluster that runs, and an administrator's connection to it."""

    configuration: Path
    rados: Any
    rbd: Any
    pool: Any
    osd: "subprocess.Popen[bytes]"

    def create_image(self, name: str, size: int = 64 * MIB, *, features: int | None = None) -> str:
        """Make an image, and return its address."""
        self.rbd.RBD().create(self.pool, name, size, features=features, old_format=False)
        return self.address(name)

    def address(self, name: str) -> str:
        """Return the address of an image."""
        return f"rbd:{POOL}/{name}?conf={self.configuration}"

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the OSD answer nothing inside the `with`."""
        self.osd.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.osd.send_signal(signal.SIGCONT)

    @contextmanager
    def image(self, name: str) -> Iterator[Any]:
        """Open an image as any other program would."""
        with self.rbd.Image(self.pool, name) as found:
            yield found


def skip_without_ceph() -> None:
    """Skip the test where the programs or the Python modules are missing."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    try:
        ceph_modules()
    except UnsupportedError as error:
        pytest.skip(str(error))


@contextmanager
def running_cluster() -> Iterator[CephCluster]:
    """Start a cluster, and end it."""
    daemons: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ceph") as name:
        directory = Path(name)
        try:
            _start(directory, daemons)
            rados, rbd = ceph_modules()
            cluster = rados.Rados(conffile=str(directory / "ceph.conf"))
            cluster.connect()
            try:
                pool = _make_pool(cluster)
                try:
                    yield CephCluster(directory / "ceph.conf", cluster, rbd, pool, daemons[-1])
                finally:
                    pool.close()
            finally:
                cluster.shutdown()
        finally:
            _stop(daemons)


def _start(directory: Path, daemons: "list[subprocess.Popen[bytes]]") -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fsid, osd = str(uuid4()), str(uuid4())
    for part in ("mon", "mgr", "osd"):
        (directory / part).mkdir()
    configuration = directory / "ceph.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            fsid=fsid, port=port, directory=directory, watch_timeout=WATCH_TIMEOUT_S
        )
    )

    def run(*command: str) -> None:
        done = subprocess.run(
            [*command, *([] if command[0] == "monmaptool" else ["-c", str(configuration)])],
            capture_output=True, text=True, timeout=_START_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def daemon(*command: str) -> None:
        full = ["setpriv", "--pdeathsig", "KILL", *command, "-f", "-c", str(configuration)]
        null = subprocess.DEVNULL
        daemons.append(subprocess.Popen(full, stdin=null, stdout=null, stderr=null))

    monmap = str(directory / "monmap")
    run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{port}]", monmap)
    run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
    daemon("ceph-mon", "-i", "a")
    daemon("ceph-mgr", "-i", "a")
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    with _connected(configuration) as cluster:
        command(cluster, prefix="osd new", uuid=osd, id=0)
    daemon("ceph-osd", "-i", "0")


@contextmanager
def _connected(configuration: Path) -> Iterator[Any]:
    rados, _rbd = ceph_modules()
    cluster = rados.Rados(conffile=str(configuration), conf={"client_mount_timeout": str(_START_S)})
    cluster.connect()
    try:
        yield cluster
    finally:
        cluster.shutdown()


def command(cluster: Any, **given: object) -> str:
    """Give the monitor a command, and return its answer."""
    number, out, words = cluster.mon_command(json.dumps(given), b"", timeout=_START_S)
    assert number == 0, f"{given}: {words}"
    answer: str = out.decode()
    return answer


def _make_pool(cluster: Any) -> Any:
    """Make the pool, and wait until it takes writes."""
    command(cluster, prefix="osd pool create", pool=POOL, pg_num=8)
    command(cluster, prefix="osd pool application enable", pool=POOL, app="rbd")
    deadline = time.monotonic() + _START_S
    while not json.loads(command(cluster, prefix="osd stat", format="json"))["num_up_osds"]:
        assert time.monotonic() < deadline, "no OSD is up"
        time.sleep(0.1)
    return cluster.open_ioctx(POOL)


def _stop(daemons: "list[subprocess.Popen[bytes]]") -> None:
    for daemon in daemons:
        daemon.send_signal(signal.SIGKILL)
    for daemon in daemons:
        daemon.wait(_STOP_S)
