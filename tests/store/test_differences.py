"""Rows of docs/COMPATIBILITY.md that no script of the original shows, and bugs that were found."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blobstore import (
    Blob,
    Blobstore,
    CorruptError,
    ExistsError,
    InvalidArgumentError,
    MemoryDevice,
)
from blobstore.format.descriptors import HAS_INTERNAL_XATTRS
from blobstore.format.page import NO_PAGE, MetadataPage
from blobstore.testing.internals import core_of, device_of
from blobstore.units import PageIndex
from tests.golden.test_load import documented_rows
from tests.proof.corruptions.sample import ImageDevice, sample

CLUSTER = 65536


class Recorder(MemoryDevice):
    """A memory device that stays, notes the kinds of requests, and lets others in between."""

    def __init__(self) -> None:
        super().__init__(4 << 20, 4096, atomic_write_size=4096)
        self.log: list[str] = []
        self.during_next_write: Callable[[], None] | None = None

    def write(self, offset: int, buffers: Any) -> None:
        act, self.during_next_write = self.during_next_write, None
        if act is not None:
            act()
        self.log.append("write")
        super().write(offset, buffers)

    def write_zeroes(self, offset: int, length: int) -> None:
        self.log.append("zero")
        super().write_zeroes(offset, length)

    def flush(self) -> None:
        self.log.append("flush")
        super().flush()

    def close(self) -> None:
        """Stay open: the store is loaded again."""


@pytest.fixture
def store() -> Blobstore:
    return Blobstore.create(Recorder(), cluster_size=CLUSTER)


def log_of(store: Blobstore) -> list[str]:
    return recorder_of(store).log


def recorder_of(store: Blobstore) -> Recorder:
    device = device_of(store)
    assert isinstance(device, Recorder)
    return device


def test_what_is_acknowledged_as_durable_was_flushed_after_its_last_metadata_write(
    store: Blobstore,
) -> None:
    blob = store.create_blob(4 * CLUSTER, thin=True)
    made: list[Blob] = []
    acts: list[Callable[[], object]] = [
        lambda: made.append(store.create_blob(CLUSTER)),
        lambda: made.append(blob.snapshot()),
        lambda: made.append(made[1].clone()),
        lambda: store.set_super_blob(blob.id),
        blob.inflate,
    ]
    for act in acts:
        log_of(store).clear()
        act()
        writes_after_the_flush = log_of(store)[::-1].index("flush")
        # A snapshot's marker may wait: what a crash finds is decided without it.
        assert writes_after_the_flush <= (1 if act is acts[1] else 0)
    for handle in (blob, *made):
        if not handle.info.read_only:
            handle.set_xattr("name", b"x")
        log_of(store).clear()
        handle.close()
        assert log_of(store)[-1:] in ([], ["flush"])


def chain_of(store: Blobstore) -> tuple[int, int]:
    """Return a closed blob with a chain of two pages, and the second page."""
    with store.create_blob(xattrs={"long": bytes(range(256)) * 15, "other": b"1" * 999}) as blob:
        (_root, second) = blob.info.metadata_pages
    return blob.id, second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"blob_id": 0x1_0000_0099}, "expected", id="another blob's id"),
        pytest.param({"sequence": 7}, "expected", id="another place in the chain"),
        pytest.param({"next_page": PageIndex(10**6)}, "outside", id="a link past the region"),
        pytest.param({"next_page": None}, "sequence 1, expected", id="a loop"),
    ],
)
def test_a_chain_whose_pages_do_not_belong_together_is_not_opened(
    store: Blobstore, change: dict[str, Any], message: str
) -> None:
    blob_id, second = chain_of(store)
    offset = core_of(store).geometry.page_offset(PageIndex(second))
    page = MetadataPage.decode(device_of(store).read(offset, 4096), at=PageIndex(second))
    assert page.next_page == NO_PAGE
    if change == {"next_page": None}:
        change = {"next_page": PageIndex(second)}
    device_of(store).write(offset, [replace(page, **change).encode()])
    with pytest.raises(CorruptError, match=message) as caught:
        store.open_blob(blob_id)
    assert caught.value.errno == 22


def test_a_blob_that_grows_while_its_inflate_waits_can_be_opened_afterwards(
    store: Blobstore,
) -> None:
    """It lost its thin flag with holes in it, and could never be opened again."""
    blob, other = store.create_blob(4 * CLUSTER, thin=True), store.create_blob(CLUSTER)
    blob.write(bytes([1]) * 4 * CLUSTER)
    blob.sync_md()
    other.set_xattr("name", b"x")
    errors: list[Exception] = []
    threads: list[threading.Thread] = []

    def attempt(act: Callable[[], None], queued: int) -> None:
        def run() -> None:
            try:
                act()
            except Exception as error:
                errors.append(error)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        while len(core_of(store).mutex._waiting) < queued and threads[-1].is_alive():
            threads[-1].join(0.001)

    def queue_both() -> None:
        attempt(lambda: blob.resize(8 * CLUSTER), 1)
        attempt(blob.inflate, 2)

    recorder_of(store).during_next_write = queue_both
    other.sync_md()
    for thread in threads:
        thread.join()
    assert [type(error).__name__ for error in errors] == ["BusyError"]
    store.close()
    with Blobstore.open(device_of(store)) as store, store.open_blob(blob.id) as blob:
        info = blob.info
        assert (info.thin, info.allocated_clusters) == (False, info.cluster_count)


def test_closing_one_of_two_handles_makes_durable_what_was_changed(store: Blobstore) -> None:
    first = store.create_blob()
    second = store.open_blob(first.id)
    first.set_xattr("name", b"x")
    second.close()
    with Blobstore.open(device_of(store)) as crashed, crashed.open_blob(first.id) as blob:
        assert blob.xattrs == {"name": b"x"}


def test_a_snapshot_clears_its_clusters_as_its_origin_does(store: Blobstore) -> None:
    with store.create_blob(CLUSTER, clear_method=3) as blob, blob.snapshot() as snapshot:
        assert snapshot.info.clear_method == blob.info.clear_method == 3


def test_a_type_that_was_set_is_the_stores_type_at_once(store: Blobstore) -> None:
    store.set_type(b"NEW")
    assert store.info.bstype == b"NEW".ljust(16, b"\0")


def test_a_metadata_page_above_16_mib_is_refused() -> None:
    """The row `page-size-limit`."""
    with pytest.raises(InvalidArgumentError, match="metadata page size 33554432"):
        Blobstore.create(MemoryDevice(1 << 20), md_page_size=32 << 20, cluster_size=64 << 20)


def test_a_blob_of_more_clusters_than_can_be_kept_track_of_is_refused(store: Blobstore) -> None:
    """The row `largest-blob`."""
    with pytest.raises(InvalidArgumentError, match="expected 0 to 67108864"):
        store.create_blob(((1 << 26) + 1) * CLUSTER, thin=True)
    store.create_blob((1 << 26) * CLUSTER, thin=True).close()


def test_a_blob_does_not_become_a_clone_of_its_own_descendant(store: Blobstore) -> None:
    """The row `set-parent-cycle`."""
    blob = store.create_blob(4 * CLUSTER, thin=True)
    blob.write(b"content")
    lower = blob.snapshot()
    upper = blob.snapshot()
    for below in (lower, upper):
        for above in (upper, lower):
            with pytest.raises((InvalidArgumentError, ExistsError)) as caught:
                below.set_parent(above.id)
            assert caught.value.errno == (17 if (below, above) == (upper, lower) else 22)
    assert (blob.info.parent, upper.info.parent, lower.info.parent) == (upper.id, lower.id, None)
    assert blob.read(7) == b"content"


@pytest.mark.parametrize("cluster", [24576, 20480, 3 * 16384 + 4096])
def test_a_cluster_is_whole_metadata_pages(cluster: int) -> None:
    """The row `cluster-of-whole-pages`."""
    with pytest.raises(InvalidArgumentError, match="multiple of the page size 16 KiB"):
        Blobstore.create(MemoryDevice(4 << 20), cluster_size=cluster, md_page_size=16384)


def test_a_flag_is_shown_as_it_is_on_disk_and_follows_its_attribute_when_written() -> None:
    """The row `internal-xattr-flag`."""
    image = sample(4096).image(dirty=True)
    image.set_flags("clone", drop=HAS_INTERNAL_XATTRS)
    device = ImageDevice(bytes(image.data), atomic_write_size=4096)
    with Blobstore.open(device) as store, store.open_blob(image.names["clone"]) as clone:
        assert "SNAP" in clone.info.internal_xattrs
        assert not clone.info.invalid_flags & HAS_INTERNAL_XATTRS
        clone.set_xattr("k", b"v")
        assert not clone.info.invalid_flags & HAS_INTERNAL_XATTRS
        clone.sync_md()
        assert clone.info.invalid_flags & HAS_INTERNAL_XATTRS


def test_every_row_that_is_shown_here_is_in_the_document() -> None:
    here = {row for row, test in documented_rows().items() if Path(__file__).name in test}
    assert here == {
        "flushes",
        "whole-page-checks",
        "page-size-limit",
        "largest-blob",
        "set-parent-cycle",
        "internal-xattr-flag",
        "cluster-of-whole-pages",
    }
