"""A store in a file on a host file system that is full (CRASH-SAFETY 1, "Space").

A tmpfs is filled up to every size in steps of 64 KiB, under every operation. What fails is a typed
error before anything changed; flushing and unloading never fail; when there is space again, the
store goes on, and nothing that was acknowledged is missing.
"""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from blobstore import (
    Blob,
    BlobId,
    Blobstore,
    DeviceError,
    NoSpaceError,
    check,
)
from blobstore.device.file import FileDevice
from blobstore.units import GIB, KIB, MIB

CLUSTER: Final = 16 * KIB
SIZE: Final = 6 * MIB
HOST: Final = 3 * MIB
STEP: Final = 64 * KIB
PAGE: Final = 4 * KIB
MD_PAGES: Final = 384

Content = dict[BlobId, tuple[bytes, dict[str, bytes]]]


@dataclass(frozen=True)
class Family:
    """The blobs of the store that every operation begins with."""

    thin: BlobId
    thick: BlobId
    origin: BlobId
    snapshot: BlobId
    clone: BlobId


@dataclass(frozen=True)
class Host:
    """A small file system, and a file in it that takes the rest of the space."""

    directory: Path

    @property
    def image(self) -> str:
        return str(self.directory / "disk.img")

    def leave(self, size: int) -> None:
        """Fill the file system until so many bytes are free, or as many as there are."""
        self.make_space()
        free = os.statvfs(self.directory)
        taken = free.f_bfree * free.f_bsize - size
        if taken > 0:
            with open(self._filler, "wb") as filler:
                os.posix_fallocate(filler.fileno(), 0, taken)

    def make_space(self) -> None:
        self._filler.unlink(missing_ok=True)

    def put(self, content: bytes) -> None:
        """Write the image again: what is zero is a hole."""
        Path(self.image).unlink(missing_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(len(content))
            for at in pages_of(content):
                os.pwrite(file.fileno(), content[at : at + PAGE], at)

    @property
    def _filler(self) -> Path:
        return self.directory / "filler"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    directory = tmp_path_factory.mktemp("full")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={HOST}", "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: it takes root and the right to mount")
    try:
        yield Host(directory)
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@cache
def pages_of(content: bytes) -> list[int]:
    """Return where pages are that are not zero."""
    return [at for at in range(0, len(content), PAGE) if any(content[at : at + PAGE])]


def text(seed: int, length: int) -> bytes:
    return bytes([seed + 1]) * length


@cache
def base(*, clean: bool) -> tuple[bytes, Family]:
    """Make a store with one blob of each kind; a dirty one was copied while it was in use."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"base-{os.getpid()}.img"
    try:
        with Blobstore.create(path, size=SIZE, cluster_size=CLUSTER, md_pages=MD_PAGES) as store:
            thin = store.create_blob(size=20 * CLUSTER, thin=True, xattrs={"name": b"thin"})
            thin.write(text(1, 4 * CLUSTER), 0)
            thick = store.create_blob(size=4 * CLUSTER)
            thick.write(text(2, 4 * CLUSTER), 0)
            origin = store.create_blob(size=12 * CLUSTER, thin=True)
            origin.write(text(3, 6 * CLUSTER), 0)
            snapshot = origin.snapshot()
            origin.write(text(4, 100), CLUSTER)
            clone = snapshot.clone()
            family = Family(thin.id, thick.id, origin.id, snapshot.id, clone.id)
            store.flush()
            dirty = path.read_bytes()
        return (path.read_bytes() if clean else dirty), family
    finally:
        path.unlink(missing_ok=True)


def contents(store: Blobstore) -> Content:
    found: Content = {}
    for blob_id in store.blob_ids():
        with store.open_blob(blob_id) as blob:
            found[blob_id] = blob.read(blob.size), dict(blob.xattrs)
    return found


Operation = Callable[[Blobstore, Family], object]


def on(blob_of: Callable[[Family], BlobId], change: Callable[[Blob], object]) -> Operation:
    """Return the operation that opens a blob and changes it."""

    def run(store: Blobstore, family: Family) -> None:
        with store.open_blob(blob_of(family)) as blob:
            change(blob)

    return run


def merge(store: Blobstore, family: Family) -> None:
    """Delete a snapshot with one clone."""
    store.delete_blob(family.clone)
    store.delete_blob(family.snapshot)


OPERATIONS: Final[dict[str, Operation]] = {
    "create thin": lambda store, _: store.create_blob(size=MIB, thin=True).close(),
    "create thick": lambda store, _: store.create_blob(size=MIB).close(),
    "create with xattrs": lambda store, _: store.create_blob(
        size=0, xattrs={f"x{n}": bytes(2000) for n in range(90)}
    ).close(),
    "write": on(lambda f: f.thin, lambda blob: blob.write(text(7, 5 * CLUSTER), 3 * CLUSTER)),
    "write one": on(lambda f: f.thin, lambda blob: blob.write(b"one", 9 * CLUSTER + 5)),
    "overwrite": on(lambda f: f.thick, lambda blob: blob.write(text(8, 3 * CLUSTER), 100)),
    "copy on write": on(lambda f: f.clone, lambda blob: blob.write(b"new", 2 * CLUSTER + 1)),
    "write zeroes": on(lambda f: f.thin, lambda blob: blob.write_zeroes(0, 10 * CLUSTER)),
    "unmap": on(lambda f: f.thin, lambda blob: blob.unmap(CLUSTER, 2 * CLUSTER)),
    "resize up": on(lambda f: f.thin, lambda blob: blob.resize(4 * MIB)),
    "resize thick": on(lambda f: f.thick, lambda blob: blob.resize(MIB)),
    "resize down": on(lambda f: f.thin, lambda blob: blob.resize(2 * CLUSTER)),
    "set xattr": on(lambda f: f.thin, lambda blob: blob.set_xattr("large", bytes(4000))),
    "remove xattr": on(lambda f: f.thin, lambda blob: blob.remove_xattr("name")),
    "set read-only": on(lambda f: f.thick, lambda blob: blob.set_read_only()),
    "snapshot": on(lambda f: f.thin, lambda blob: blob.snapshot().close()),
    "clone": on(lambda f: f.snapshot, lambda blob: blob.clone().close()),
    "inflate": on(lambda f: f.clone, lambda blob: blob.inflate()),
    "decouple": on(lambda f: f.origin, lambda blob: blob.decouple()),
    "delete": lambda store, f: store.delete_blob(f.thin),
    "delete clone": lambda store, f: store.delete_blob(f.clone),
    "merge": merge,
    "set super": lambda store, f: store.set_super_blob(f.thick),
    "nothing": lambda _store, _: None,
}


@cache
def outcome(name: str, *, clean: bool) -> Content:
    """Return what the store holds after an operation on a host with space."""
    image, family = base(clean=clean)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"outcome-{os.getpid()}.img"
    path.write_bytes(image)
    try:
        with Blobstore.open(path) as store:
            OPERATIONS[name](store, family)
            return contents(store)
    finally:
        path.unlink()


def merged(found: bytes, before: bytes, after: bytes) -> bool:
    """Tell whether every byte is the old or the new one: a write that failed wrote some."""
    size = len(found)
    here, old, new = (
        np.frombuffer(data.ljust(size, b"\0")[:size], dtype=np.uint8)
        for data in (found, before, after)
    )
    return size in {len(before), len(after)} and bool(((here == old) | (here == new)).all())


def assert_between(found: Content, before: Content, after: Content) -> None:
    for blob_id, (data, xattrs) in found.items():
        old, new = before.get(blob_id, (b"", {})), after.get(blob_id, (b"", {}))
        assert xattrs in (old[1], new[1])
        assert data in (old[0], new[0]) or merged(data, old[0], new[0])
    assert set(before) & set(after) <= set(found) <= set(before) | set(after)


def run(host: Host, name: str, room: int, *, clean: bool, stays_full: bool) -> bool:
    """Do one operation with so much room; tell whether anything failed for want of space."""
    image, family = base(clean=clean)
    before, after = outcome("nothing", clean=clean), outcome(name, clean=clean)
    host.make_space()
    host.put(image)
    host.leave(room)
    failed = left_dirty = False
    store = Blobstore.open(host.image)
    try:
        OPERATIONS[name](store, family)
    except NoSpaceError:
        failed = True
    if not stays_full:
        host.make_space()
    try:
        store.flush()
        assert_between(contents(store), before if failed else after, after)
        store.unload()
    except NoSpaceError:
        # A dirty store that could not be changed cannot be made clean either.
        assert stays_full
        assert not clean
        left_dirty = True
        with suppress(NoSpaceError):
            store.close()
    host.make_space()
    with Blobstore.open(host.image) as store:
        assert_between(contents(store), before if failed else after, after)
        store.create_blob(size=2 * CLUSTER).close()
    assert not check(host.image).findings
    return failed or left_dirty


ROOMS: Final = (0, PAGE, 4 * PAGE, *range(STEP, 28 * STEP, STEP))


def run_until_nothing_lacks(host: Host, name: str, *, clean: bool, stays_full: bool) -> None:
    """Do one operation with more and more room, until twice all went well: so it does with more."""
    enough = 0
    for room in ROOMS:
        enough += not run(host, name, room, clean=clean, stays_full=stays_full)
        if enough == 2:
            return
    pytest.fail("there was never enough space")


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_a_full_host_fails_whole_and_nothing_is_lost(host: Host, name: str) -> None:
    run_until_nothing_lacks(host, name, clean=True, stays_full=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_store_that_had_no_space_goes_on_when_there_is_some(host: Host, name: str) -> None:
    run_until_nothing_lacks(host, name, clean=True, stays_full=False)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_store_that_was_not_unloaded_is_recovered_on_a_full_host(host: Host, name: str) -> None:
    run_until_nothing_lacks(host, name, clean=False, stays_full=True)


@pytest.mark.parametrize("room", ROOMS)
def test_a_store_that_fills_its_host_keeps_everything_it_acknowledged(
    host: Host, room: int
) -> None:
    host.make_space()
    image, _family = base(clean=True)
    host.put(image)
    host.leave(room)
    expected: Content = {}
    store = Blobstore.open(host.image)
    with suppress(NoSpaceError):
        for number in range(200):
            blob = store.create_blob(size=8 * CLUSTER, thin=True)
            expected[blob.id] = bytes(8 * CLUSTER), {}
            blob.write(text(number % 100, 100), CLUSTER)
            written = bytes(CLUSTER) + text(number % 100, 100).ljust(7 * CLUSTER, b"\0")
            expected[blob.id] = written, {}
            blob.set_xattr("number", b"%d" % number)
            expected[blob.id] = written, {"number": b"%d" % number}
    store.flush()
    store.close()
    with Blobstore.open(host.image, read_only=True) as store:
        assert store.info.clean
        found = contents(store)
        assert {blob_id: found[blob_id] for blob_id in expected} == expected


@pytest.mark.parametrize("room", [0, PAGE, 16 * PAGE, 40 * PAGE, 80 * PAGE, 120 * PAGE])
def test_a_store_that_cannot_be_made_leaves_the_file_as_it_was(host: Host, room: int) -> None:
    host.make_space()
    image, _family = base(clean=True)
    host.put(image)
    host.leave(room)
    before = Path(host.image).read_bytes()
    size = SIZE + MIB
    try:
        with Blobstore.create(
            host.image, size=size, cluster_size=CLUSTER, md_pages=2000, overwrite=True
        ) as store:
            assert store.blob_ids() == []
    except NoSpaceError:
        assert Path(host.image).read_bytes() == before
    else:
        assert not check(host.image).findings


def test_a_new_file_that_has_no_space_is_not_left_behind(host: Host) -> None:
    host.put(b"")
    host.leave(4 * PAGE)
    with pytest.raises(NoSpaceError) as caught:
        Blobstore.create(host.directory / "new.img", size=SIZE, cluster_size=CLUSTER)
    assert isinstance(caught.value, DeviceError)
    assert not (host.directory / "new.img").exists()


def test_growing_the_store_on_a_full_host_needs_no_space(host: Host) -> None:
    host.make_space()
    image, _family = base(clean=True)
    host.put(image)
    host.leave(0)
    store = Blobstore.open(host.image)
    os.truncate(host.image, 2 * SIZE)
    store.grow()
    store.unload()
    assert not check(host.image).findings


# What it takes


def space_of(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_large_store_takes_space_for_the_metadata_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=100 * GIB, cluster_size="64KiB") as store:
        assert store.info.md_len * PAGE > 6 * GIB
        created = space_of(path)
        assert created < 2 * MIB
        for _number in range(200):
            store.create_blob(size="1GiB", thin=True).close()
    assert space_of(path) - created <= 400 * PAGE + 256 * KIB
    assert not check(path).findings


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "dirty"])
def test_holes_in_the_metadata_of_a_large_store_are_not_read(tmp_path: Path, clean: bool) -> None:
    path = tmp_path / "disk.img"
    store = Blobstore.create(path, size=100 * GIB, cluster_size="64KiB")
    store.create_blob(size="1MiB").close()
    store.close() if clean else store.flush()
    with CountingDevice(os.open(path, os.O_RDONLY), name="counting", read_only=True) as device:
        report = check(device)
        assert not report.findings
        assert report.unloaded == clean
        assert device.read_bytes < 16 * MIB
    store.close()


class CountingDevice(FileDevice):
    """A file device that counts what is read."""

    read_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.read_bytes += sum(buffer.nbytes for buffer in buffers)
        super().read_into(offset, buffers)
