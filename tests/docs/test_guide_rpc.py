import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.shared import CHECKOUT

GUIDE: Final = (CHECKOUT / "docs" / "guide-rpc.md").read_text(encoding="utf-8")
CONSOLE: Final = re.findall(r"^\$ (.*)$", GUIDE, re.MULTILINE)
CLIENT: Final = [line for line in CONSOLE if line.startswith("spdk-rpc ")]
SERVER: Final = [line for line in CONSOLE if line.startswith("blobstore ")]


WORKFLOW: Final = re.findall(r"^      - run: ((?:blobstore|spdk-rpc) .*)$", GUIDE, re.MULTILINE)


def test_every_command_of_the_guide_is_one_of_these() -> None:
    assert len(SERVER) + len(CLIENT) == len(CONSOLE) == 8
    assert len(WORKFLOW) == 2


@pytest.mark.slow
def test_the_client_of_the_workflow_waits_until_the_server_listens(tmp_path: Path) -> None:
    client = Path(sys.executable).with_name("spdk-rpc")
    tools = {
        "blobstore": f"{sys.executable} -m blobstore",
        "spdk-rpc": f"{sys.executable} {client}",
    }
    started, called = (
        line.replace("/tmp/spdk.sock", "spdk.sock").replace(
            *next((name, tool) for name, tool in tools.items() if line.startswith(name)), 1
        )
        for line in WORKFLOW
    )
    late = f"(sleep 1; exec {started.removesuffix('&')}) &"  # as on a slow machine
    script = f"{late}\nserver=$!\n{called}\nstatus=$?\nkill $server\nwait\nexit $status"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "Malloc0\n"), done.stderr


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    blobstore = [sys.executable, "-m", "blobstore"]
    made = [*blobstore, "init", "disk.img", "--size", "64MiB"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "spdk.json").write_text('{"subsystems": [{"subsystem": "bdev", "config": []}]}')
    return tmp_path


@pytest.mark.parametrize("line", SERVER)
def test_the_server_starts_serves_the_clients_commands_and_ends_clean(
    directory: Path, line: str
) -> None:
    socket = directory / "spdk.sock"
    words = line.replace("/tmp/spdk.sock", str(socket)).split()
    server = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=directory, stderr=subprocess.PIPE, text=True
    )
    try:
        while not socket.exists():
            assert server.poll() is None
            time.sleep(0.02)
        client = Path(sys.executable).with_name("spdk-rpc")
        for command in CLIENT:
            given = command.replace("/tmp/spdk.sock", str(socket)).split()[1:]
            done = subprocess.run(
                [sys.executable, str(client), *given], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        server.terminate()
        _out, errors = server.communicate(timeout=30)
    assert server.returncode == 0, errors
    assert not socket.exists()
