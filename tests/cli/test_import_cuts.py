"""A power failure while a file is imported leaves the blob whole, or one that can be continued."""

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest

from blobstore import Blobstore, VolumeStore, check
from blobstore.backup.any_store import AnyStore
from blobstore.backup.unfinished import IMPORT_STATE, unfinished_by
from blobstore.cli import copying
from blobstore.cli.files import open_to_read, size_of
from blobstore.cli.importing import BlobImport, ImportState, describe_source
from blobstore.testing.crash_states import Limits, crash_contents
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER, MD_PAGES, new_disk

RESUMED_EVERY = 4
NAME = "disk"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(3).randbytes(5 * CLUSTER - 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "PART_SIZE", CLUSTER)
        patch.setattr("blobstore.cli.content.PART_SIZE", CLUSTER)
        patch.setattr(copying, "CHECKPOINT_BYTES", 2 * CLUSTER)
        yield path


def import_into(store: AnyStore, path: Path) -> None:
    state = describe_source([(str(path), "raw")])
    with open_to_read(str(path)) as descriptor:
        size = size_of(descriptor)
        this = BlobImport.go_on(store, state, thin=True)
        this = this or BlobImport.begin(store, state, size, thin=True)
        with this.filling():
            this.fill(descriptor, size, path=str(path), label="import")
            this.finish(NAME)


@pytest.mark.slow
@pytest.mark.parametrize("volumes", [False, True], ids=["blobs", "volumes"])
@pytest.mark.parametrize("sector", [True, False], ids=["sector", "compact"])
def test_a_cut_import_leaves_the_blob_whole_or_one_that_can_be_continued(
    source: Path, sector: bool, volumes: bool
) -> None:
    disk = new_disk(sector=sector)
    device = SimulatedDevice(disk)
    if volumes:
        store: AnyStore = VolumeStore.create(
            device, name="s", cluster_size=CLUSTER, md_pages_per_cluster_ratio=60, overwrite=True
        )
    else:
        store = Blobstore.create(device, cluster_size=CLUSTER, md_pages=MD_PAGES, overwrite=True)
    base, first = bytes(disk.content), len(disk.events)
    import_into(store, source)
    events = disk.events[first:]
    store.close()
    limits = Limits(subsets=12, samples=4, torn_masks=3, atomic=disk.traits.atomic_write_size)
    expected = source.read_bytes()
    found = {"none": 0, "unfinished": 0, "whole": 0}
    resumed = count()
    for state, content in crash_contents(base, events, limits):
        device = SimulatedDevice(_like(disk, content))
        report = check(device)
        assert report.clean, f"event {state.event}: {report.findings}"
        with VolumeStore.open(device) if volumes else Blobstore.open(device) as again:
            what = _judge(again, expected)
            found[what] += 1
            if what == "unfinished" and next(resumed) % RESUMED_EVERY == 0:
                import_into(again, source)
                assert _judge(again, expected) == "whole"
    assert min(found.values()) > 0, found


def _like(disk: SimulatedDisk, content: bytes) -> SimulatedDisk:
    traits = disk.traits
    return SimulatedDisk(
        content, atomic_write_size=traits.atomic_write_size, block_size=traits.block_size
    )


def _judge(store: AnyStore, expected: bytes) -> str:
    """Return what there is; what a blob says is durable is there, with the name all of it."""
    infos = [info for info in store.list_blobs() if info.size or unfinished_by(info.xattrs)]
    named = [info for info in infos if info.name == NAME]
    for info in infos:
        assert (unfinished_by(info.xattrs) is None) == (info in named)
    for info in infos:
        mark = info.xattrs.get(IMPORT_STATE)
        durable = msgspec.json.decode(mark, type=ImportState).offset if mark else len(expected)
        with store.open_blob(info.blob_id) as blob:
            assert blob.read(durable) == expected[:durable]
    assert len(infos) <= 1
    return "whole" if named else "unfinished" if infos else "none"
