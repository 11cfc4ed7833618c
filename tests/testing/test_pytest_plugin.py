import subprocess
import sys
from pathlib import Path

from blobstore import VolumeStore
from blobstore.rpc.server import RpcServer
from tests.rpc.client import Client

pytest_plugins = ["blobstore.testing.pytest_plugin"]


def test_a_server_and_a_store_are_there_for_a_test(
    rpc_server: RpcServer, volume_store: VolumeStore
) -> None:
    client = Client(rpc_server.path)
    assert client("bdev_malloc_create", num_blocks=8, block_size=512) == "Malloc0"
    client.close()
    volume_store.create_volume("v", "1MiB")
    assert "v" in volume_store


def test_a_project_of_its_own_can_use_the_fixtures(tmp_path: Path) -> None:
    plugin = 'pytest_plugins = ["blobstore.testing.pytest_plugin"]\n'
    (tmp_path / "conftest.py").write_text(plugin)
    test = "def test_it(rpc_server, volume_store):\n    assert rpc_server.path\n"
    (tmp_path / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout
