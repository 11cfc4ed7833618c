import os
import time
from collections.abc import Iterator

import pytest

from tests.ceph.cluster import CephCluster, running_cluster, skip_without_ceph

# `make ceph` sets this: with all of these every run of the tests would take half a minute more.
if not os.environ.get("BLOBSTORE_TEST_CEPH"):
    collect_ignore = ["test_rbd_image.py", "test_rbd_rpc.py", "test_guide_ceph.py", "test_speed.py"]


@pytest.fixture(scope="package")
def ceph() -> Iterator[CephCluster]:
    """One cluster for these tests, each of which has images of its own; it ends with the last."""
    skip_without_ceph()
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def address(ceph: CephCluster, request: pytest.FixtureRequest) -> str:
    """An image of the test's own."""
    return ceph.create_image(f"{request.node.name[:80]}-{time.monotonic_ns()}")
