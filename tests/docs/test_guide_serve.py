"""Every command of docs/guide-serve.md, in its order."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import check
from tests.nbd.certificates import make_certificates
from tests.nbd.programs import needs
from tests.nbd.servers import short_directory
from tests.shared import CHECKOUT

GUIDE: Final = (CHECKOUT / "docs" / "guide-serve.md").read_text(encoding="utf-8")
COMMANDS: Final = re.findall(r"^\$ (.*)$", GUIDE, re.MULTILINE)
CLIENTS: Final = ("nbdinfo", "nbdcopy", "nbdkit", "qemu-img", "qemu-io", "fio", "curl", "openssl")
SERVE: Final = "blobstore serve "
METRICS, TLS = "127.0.0.1:9109", "10810"
_PATIENCE_S: Final = 120


class Server:
    """The guide's server that runs at present, and where it listens."""

    def __init__(self, line: str, place: Path) -> None:
        free = line.replace(METRICS, "127.0.0.1:0").replace(TLS, "0")
        words = shlex.split(free.replace("/tmp/", f"{place}/").removeprefix("blobstore "))
        command = [sys.executable, "-m", "blobstore", *words, "--json", "--quiet"]
        self._process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._said: dict[str, Any] = json.loads(self._process.stdout.readline())

    def placed(self, line: str) -> str:
        """Return a client's line with the server's real addresses."""
        port = self._said["nbd"][0].rpartition(":")[2]
        return line.replace(METRICS, str(self._said["metrics"])).replace(TLS, port)

    def stop(self) -> int:
        self._process.terminate()
        self._process.communicate(timeout=_PATIENCE_S)
        return self._process.returncode


@contextmanager
def place_of_the_guide() -> Iterator[Path]:
    with short_directory() as place:
        make_certificates(place / "pki")
        yield place


def run(line: str, place: Path) -> str:
    scripts = Path(sys.executable).parent
    path = os.pathsep.join([str(scripts), os.environ["PATH"], "/usr/sbin", "/sbin"])
    words = line.replace("/tmp/", f"{place}/")
    words = words.replace("blobstore ", f"{shlex.quote(sys.executable)} -m blobstore ", 1)
    done = subprocess.run(
        ["bash", "-c", words], cwd=place, env={**os.environ, "PATH": path}, capture_output=True,
        text=True, check=False, timeout=_PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@needs(*CLIENTS)
@pytest.mark.slow
def test_the_commands_do_what_is_said() -> None:
    shown: dict[str, str] = {}
    server: Server | None = None
    with place_of_the_guide() as place:
        try:
            for line in COMMANDS:
                if line.startswith(SERVE):
                    assert server is None or server.stop() == 0
                    server = Server(line, place)
                else:
                    shown[line] = run(line if server is None else server.placed(line), place)
        finally:
            assert server is None or server.stop() == 0
        assert check(place / "disk.img").clean
    assert len(COMMANDS) == 26
    (listed,) = (text for line, text in shown.items() if "--list" in line)
    assert 'export="web"' in listed
    assert 'export="monday"' in listed
    (changed,) = (text for line, text in shown.items() if "dirty-bitmap" in line)
    assert "dirty" in changed
    (part,) = (text for line, text in shown.items() if line.startswith("nbdkit"))
    assert "export-size: 2097152 (2M)" in part
    (metrics,) = (text for line, text in shown.items() if line.startswith("curl"))
    assert 'blobstore_nbd_connections{export="test"} 0' in metrics
    assert metrics.endswith("# EOF\n")
