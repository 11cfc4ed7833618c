"""Every command and every example of the guide, on a cluster."""

import os
import re
import signal
import subprocess
import sys
from typing import Any, Final

import pytest

from blobstore.api.volumes import VolumeStore
from blobstore.errors import BusyError
from tests.ceph.cluster import CephCluster
from tests.ceph.processes import other_process
from tests.shared import CHECKOUT

GUIDE: Final = (CHECKOUT / "docs" / "guide-ceph.md").read_text(encoding="utf-8")
COMMANDS: Final = re.findall(r"^\$ (.*)$", GUIDE, re.MULTILINE)
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


def test_the_commands_of_the_guide_do_what_is_said(ceph: CephCluster) -> None:
    script = "\n".join([f'blobstore() {{ {sys.executable} -m blobstore "$@"; }}', *COMMANDS])
    environment = {**os.environ, "CEPH_CONF": str(ceph.configuration)}
    done = subprocess.run(
        ["bash", "-euxc", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(COMMANDS) == 9
    assert "monday" in done.stdout
    assert "200 GiB" in done.stdout


HOLDER: Final = """
import sys
from blobstore import VolumeStore

vms = VolumeStore.create(sys.argv[1], name="vms", cluster_size="1MiB")
print("ready", flush=True)
sys.stdin.readline()
"""


def test_the_function_of_the_guide_takes_over_when_the_writer_is_gone(address: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(EXAMPLE, "guide-ceph.md", "exec"), names)
    open_when_free = names["open_when_free"]
    with other_process(HOLDER, address) as holder:
        with pytest.raises(BusyError, match="in use by the Ceph client"):
            open_when_free(address, 0)
        holder.send_signal(signal.SIGKILL)
        with open_when_free(address, 60) as vms:
            assert isinstance(vms, VolumeStore)
