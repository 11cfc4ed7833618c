"""A store on Ceph outlives its writer: the one test of Ceph that every run of the tests has.

The others are run by `make ceph`.
"""

import signal
import time

import pytest

from blobstore.api.volumes import VolumeStore
from blobstore.errors import BusyError
from blobstore.testing.device_contract import pattern
from blobstore.units import MIB
from tests.ceph.cluster import WATCH_TIMEOUT_S
from tests.ceph.processes import other_process
from tests.cli.runner import run_process

_WAIT_S = 60

WRITER = """
import sys
from blobstore import VolumeStore
from blobstore.testing.device_contract import pattern

vms = VolumeStore.create(sys.argv[1], name="vms", cluster_size="1MiB")
web = vms.create_volume("web", size="8MiB", thin=True)
web.write(pattern(4 << 20, seed=1))
web.flush()
web.snapshot("monday")
web.write(pattern(1 << 20, seed=2))
web.flush()
print("ready", flush=True)
number = 0
while True:
    web.write(pattern(4096, seed=number % 50), offset=(4 << 20) + number % 512 * 4096)
    number += 1
"""


@pytest.mark.slow
def test_a_killed_writers_store_is_whole_in_the_next_process(address: str) -> None:
    with other_process(WRITER, address) as writer:
        began = time.monotonic()
        for read_only in (False, True):
            with pytest.raises(BusyError, match=r"in use by the Ceph client at 127\.0\.0\.1"):
                VolumeStore.open(address, read_only=read_only)
        assert time.monotonic() - began < WATCH_TIMEOUT_S
        writer.send_signal(signal.SIGKILL)
        writer.wait(_WAIT_S)
    with VolumeStore.open(address) as vms:  # waits until the cluster sees that the writer is gone
        assert vms["web"].read(MIB) == pattern(MIB, seed=2)
        assert vms["web"].read(3 * MIB, offset=MIB) == pattern(4 * MIB, seed=1)[MIB:]
        assert vms["monday"].read(4 * MIB) == pattern(4 * MIB, seed=1)
    done = run_process("check", address, "--json")
    assert done.json["clean"], done.text
