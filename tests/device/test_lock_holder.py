"""The message that a store is in use names the process that holds it."""

import subprocess
import sys
from pathlib import Path

import pytest

from blobstore import Blobstore, BusyError
from blobstore.device.lock_holder import describe_holder

HOLD = """
import sys
from blobstore import Blobstore
with Blobstore.open(sys.argv[1], read_only=sys.argv[2] == "reading"):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Blobstore.create(tmp_path / "disk.img", size="4MiB", cluster_size="64KiB").close()
    return tmp_path / "disk.img"


@pytest.mark.parametrize("how", ["writing", "reading"])
def test_a_store_in_use_names_the_process_that_holds_it(image: Path, how: str) -> None:
    command = [sys.executable, "-c", HOLD, str(image), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BusyError) as caught:
            Blobstore.open(image)
        holder.kill()
    name = Path("/proc/self/comm").read_text().strip()
    assert caught.value.message == (
        f"{image}: cannot be opened for writing: in use by process {holder.pid} ({name})"
    )


def test_a_store_that_this_process_holds_is_said_to_be_its_own(image: Path) -> None:
    with Blobstore.open(image), pytest.raises(BusyError, match=r"in use by this process$"):
        Blobstore.open(image, read_only=True)


def test_what_proc_does_not_tell_is_left_out(image: Path) -> None:
    with image.open("rb") as file:
        assert describe_holder(file.fileno()) == "this or another process"
    assert describe_holder(-1) == "this or another process"
