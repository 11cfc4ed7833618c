"""Thousands of attributes of one blob: what setting them takes, and what it leaves."""

import time
from collections.abc import Callable
from typing import Final

import pytest

from blobstore import Blob, Blobstore, MemoryDevice, NoSpaceError
from blobstore.metadata.space import spare_pages

_FEW: Final = 500
_TIMES: Final = 8
_ROUNDS: Final = 2

SECTOR, COMPACT = 512, 4096


def new_blob(*, atomic: int = SECTOR, pages: int = 900) -> Blob:
    device = MemoryDevice(64 << 20, atomic_write_size=atomic)
    store = Blobstore.create(device, cluster_size=1 << 16, md_pages=pages)
    return store.create_blob(size="64KiB")


def set_all(blob: Blob, count: int, size: int = 20) -> None:
    for number in range(count):
        blob.set_xattr(f"name {number}", bytes(size))


def add(blob: Blob, count: int) -> None:
    set_all(blob, count)


def grow(blob: Blob, count: int) -> None:
    set_all(blob, count, 200)


def remove(blob: Blob, count: int) -> None:
    for number in range(count):
        blob.remove_xattr(f"name {number}")


def seconds_of(change: Callable[[Blob, int], None], count: int) -> float:
    """Return the processor time that the change takes, of a few rounds the shortest."""
    found: list[float] = []
    for _round in range(_ROUNDS):
        blob = new_blob()
        if change is not add:
            set_all(blob, count)
        begin = time.process_time()
        change(blob, count)
        found.append(time.process_time() - begin)
        blob.close()
    return min(found)


@pytest.mark.parametrize("change", [add, grow, remove])
def test_setting_4000_attributes_takes_time_by_their_number_not_by_its_square(
    change: Callable[[Blob, int], None],
) -> None:
    few = seconds_of(change, _FEW)
    assert seconds_of(change, _TIMES * _FEW) < 3 * _TIMES * few


@pytest.mark.parametrize("atomic", [SECTOR, COMPACT])
def test_attributes_that_were_changed_in_every_way_are_read_back(atomic: int) -> None:
    device = MemoryDevice(64 << 20, atomic_write_size=atomic)
    expected: dict[str, bytes] = {}
    with Blobstore.create(device, cluster_size=1 << 16, md_pages=900) as store:
        blob = store.create_blob(size="64KiB", xattrs={"first": b"1"})
        expected["first"] = b"1"
        for step in range(3000):
            name, value = f"name {step * 7919 % 701}", bytes([step % 251]) * (step * 31 % 400)
            if step % 5 == 4 and name in expected:
                blob.remove_xattr(name)
                del expected[name]
            else:
                blob.set_xattr(name, value)
                expected[name] = value
            if step % 500 == 0:
                blob.sync_md()
        assert list(blob.info.xattrs.items()) == list(expected.items())
        blob.close()
        with store.open_blob(blob.id) as again:
            assert list(again.info.xattrs.items()) == list(expected.items())


@pytest.mark.parametrize("atomic", [SECTOR, COMPACT])
def test_an_attribute_for_which_no_page_is_left_changes_nothing(atomic: int) -> None:
    blob = new_blob(atomic=atomic, pages=40)
    with pytest.raises(NoSpaceError):
        set_all(blob, 10_000, 100)
    before = list(blob.info.xattrs.items())
    assert before[-1][0] == f"name {len(before) - 1}"
    with pytest.raises(NoSpaceError):
        blob.set_xattr("name 3", bytes(4000))
    assert list(blob.info.xattrs.items()) == before
    blob.sync_md()
    assert list(blob.info.xattrs.items()) == before


def test_attributes_that_were_removed_leave_room_for_others_at_once() -> None:
    blob = new_blob(pages=40)
    spare = spare_pages(blob._core)
    for number in range(200):
        blob.set_xattr(f"name {number}", bytes(400))
    for number in range(0, 200, 2):
        blob.remove_xattr(f"name {number}")
    blob.set_xattr("name 1", bytes(401))
    assert spare - spare_pages(blob._core) <= 100 * 420 // 4072 + 3


def test_what_was_listed_stays_when_a_blobs_attributes_change() -> None:
    with Blobstore.create(MemoryDevice(8 << 20), cluster_size=1 << 16) as store:
        blob = store.create_blob(size="64KiB", xattrs={"old": b"1"})
        blob.snapshot(xattrs={"kind": b"snapshot"}).close()
        blob.close()
        listed = [info.xattrs for info in store.list_blobs() if info.error is None]
        with store.open_blob(blob.id) as again:
            again.set_xattr("new", b"1")
            assert listed == [{"old": b"1"}, {"kind": b"snapshot"}]
            assert list(again.info.xattrs) == ["old", "new"]
