"""The server as a process, and the original's command that speaks to it."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.rpc.client import Client

_SPDK_RPC: Final = Path(sys.executable).with_name("spdk-rpc")
_TIMEOUT_S: Final = 60


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """Start `blobstore rpc`; yield its process and a client of it."""
    path = directory / "rpc.sock"
    path.unlink(missing_ok=True)  # what was killed leaves it
    command = [sys.executable, "-m", "blobstore", "rpc", "--quiet", "--socket", str(path)]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL) as process:
        try:
            client = _connected(str(path), process)
            try:
                yield process, client
            finally:
                client.close()
        finally:
            process.kill()


def _connected(path: str, process: subprocess.Popen[bytes]) -> Client:
    """Return a client as soon as the server listens."""
    while True:
        assert process.poll() is None
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return Client(path)
        time.sleep(0.01)


def stop(client: Client, process: subprocess.Popen[bytes]) -> None:
    """End a server as its users do, and wait for it."""
    client("spdk_kill_instance", sig_name="SIGINT")
    assert process.wait(_TIMEOUT_S) == 0


def spdk_rpc(path: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the original's command against a socket."""
    return subprocess.run(
        [_SPDK_RPC, "-s", path, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
