"""An image that was cut off is shortened by a repair, and never laid out in another way."""

import os
from pathlib import Path

import pytest

from blobstore import Blobstore, VolumeStore, repair

CLUSTER = 1 << 16


def store_file(path: Path, *, volumes: int, state: str) -> Path:
    """Make a volume store of 64 clusters in a file; each volume has written its first cluster."""
    with VolumeStore.create(path, name="vms", size=64 * CLUSTER, cluster_size=CLUSTER) as store:
        for number in range(volumes):
            volume = store.create_volume(f"disk{number}", 3 * CLUSTER, thin=True)
            volume.write(b"data%d" % number)
            volume.flush()
        dirty = path.read_bytes()
    if state == "dirty":
        path.write_bytes(dirty)
    return path


@pytest.mark.parametrize("state", ["clean", "dirty"])
@pytest.mark.parametrize("volumes", [0, 2])
@pytest.mark.parametrize("size", [32 * CLUSTER, 16 * CLUSTER, 12 * CLUSTER + 4096])
def test_the_cluster_size_of_a_cut_image_stays(
    tmp_path: Path, size: int, volumes: int, state: str
) -> None:
    path = store_file(tmp_path / "disk.img", volumes=volumes, state=state)
    os.truncate(path, size)
    report = repair(path, "all")
    assert report.after.clean
    assert report.repaired[0] == (
        f"super block: shortened to the device, {size} bytes: "
        f"clusters {size // CLUSTER} to 63 are given up"
    )
    with VolumeStore.open(path) as store:
        assert (store.cluster_size, store.info.size) == (CLUSTER, size)
        for number in range(volumes):
            assert store[f"disk{number}"].read(5) == b"data%d" % number


def test_an_image_that_ends_before_its_metadata_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    Blobstore.create(path, size=64 * CLUSTER, cluster_size=CLUSTER, md_pages=64).close()
    os.truncate(path, 8 << 10)
    assert repair(path, "all").repaired == ()
