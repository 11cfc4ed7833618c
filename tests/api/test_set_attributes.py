"""Attributes, name and read-only change by one write of the root, and after the data."""

from collections.abc import Iterator

import pytest

from blobstore import (
    Blobstore,
    ExistsError,
    InvalidArgumentError,
    MemoryDevice,
    NoSpaceError,
    ReadOnlyError,
    VolumeStore,
    check,
)
from blobstore.testing.crash_states import Limits, crash_contents
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER, MD_PAGES, new_disk
from blobstore.units import MIB


@pytest.fixture
def store() -> Iterator[Blobstore]:
    with Blobstore.create(MemoryDevice(MIB), cluster_size=CLUSTER, md_pages=MD_PAGES) as store:
        yield store


def test_none_removes_an_attribute_and_passes_over_one_that_is_not_there(store: Blobstore) -> None:
    blob = store.create_blob(CLUSTER, xattrs={"mark": b"1", "kept": b"2"})
    blob.set_attributes({"mark": None, "missing": None, "new": b"3"}, name="db", read_only=True)
    assert dict(blob.xattrs) == {"kept": b"2", "new": b"3", "name": b"db"}
    assert blob.read_only
    with pytest.raises(ReadOnlyError):
        blob.set_attributes({"new": b"4"})


def test_nothing_changes_when_the_attributes_find_no_metadata_page(store: Blobstore) -> None:
    blob = store.create_blob(CLUSTER, xattrs={"mark": b"1"})
    large = {f"k{number}": bytes(3000) for number in range(MD_PAGES)}
    with pytest.raises(NoSpaceError):
        blob.set_attributes({"mark": None, **large}, name="db", read_only=True)
    assert dict(blob.xattrs) == {"mark": b"1"}
    blob.set_attributes({"mark": b"2"})
    assert not blob.read_only


def test_the_name_of_a_volume_is_refused_when_it_is_taken_or_an_attribute() -> None:
    device = MemoryDevice(MIB)
    with VolumeStore.create(device, name="vms", cluster_size=CLUSTER) as store:
        store.create_volume("taken", 0).close()
        volume = store.create_volume("draft", 0, xattrs={"mark": b"1"})
        with pytest.raises(ExistsError):
            volume.set_attributes({"mark": None}, name="taken")
        with pytest.raises(InvalidArgumentError):
            volume.set_attributes({"name": b"db"})
        volume.set_attributes({"mark": None}, name="db", read_only=True)
        assert (volume.name, "mark" in volume.xattrs, "draft" in store) == ("db", False, False)


@pytest.mark.parametrize("sector", [True, False], ids=["sector", "compact"])
def test_a_power_failure_leaves_all_as_it_was_or_all_changed_with_the_data(sector: bool) -> None:
    disk = new_disk(sector=sector)
    device = SimulatedDevice(disk)
    store = Blobstore.create(device, cluster_size=CLUSTER, md_pages=MD_PAGES, overwrite=True)
    blob = store.create_blob(CLUSTER, name="draft", xattrs={"mark": b"1"})
    blob.write(b"old ")
    blob.flush()
    base, first = bytes(disk.content), len(disk.events)
    blob.write(b"data")  # to a cluster that is there, so that the map does not change
    blob.set_attributes({"mark": None}, name="done", read_only=True)
    limits = Limits(subsets=64, samples=8, torn_masks=8, atomic=disk.traits.atomic_write_size)
    seen = {_seen(disk, state) for _, state in crash_contents(base, disk.events[first:], limits)}
    store.close()
    assert seen == {
        ("draft", True, False, b"old "),
        ("draft", True, False, b"data"),
        ("done", False, True, b"data"),
    }


def _seen(disk: SimulatedDisk, content: bytes) -> tuple[str | None, bool, bool, bytes]:
    traits = disk.traits
    again = SimulatedDisk(
        content, atomic_write_size=traits.atomic_write_size, block_size=traits.block_size
    )
    assert check(SimulatedDevice(again)).clean
    with Blobstore.open(SimulatedDevice(again)) as store, store.open_blob(1 << 32) as blob:
        return blob.name, "mark" in blob.xattrs, blob.read_only, blob.read(4)
