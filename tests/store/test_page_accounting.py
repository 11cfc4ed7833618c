"""The count of metadata pages that the model tests make after each step finds what is wrong."""

from collections.abc import Iterator

import pytest

from blobstore import Blob, Blobstore, MemoryDevice
from blobstore.alloc.reservation import Need
from blobstore.metadata.store_state import StoreState
from blobstore.testing.internals import core_of, store_of
from tests.store.page_accounting import check_claims, check_promises

CLUSTER = 4096


@pytest.fixture
def blob() -> Iterator[Blob]:
    """A blob that has written a cluster: it needs an extent page."""
    with Blobstore.create(MemoryDevice(1 << 20), cluster_size=CLUSTER, md_pages=24) as store:
        made = store.create_blob(4 * CLUSTER, thin=True)
        made.write(b"1")
        yield made


def core_and_pages(blob: Blob) -> tuple[StoreState, set[int]]:
    core = core_of(store_of(blob))
    return core, {page for state in core.open_blobs.values() for page in [state.root]}


def test_promises_and_claims_of_a_sound_store_add_up(blob: Blob) -> None:
    core, pages = core_and_pages(blob)
    check_promises(core)
    check_claims(core, pages)


@pytest.mark.parametrize("promised", [Need(0, 0), Need(0, 1)])
def test_a_promise_that_is_too_small_is_found(blob: Blob, promised: Need) -> None:
    core, _pages = core_and_pages(blob)
    core.reservations.set(blob.id, promised)
    with pytest.raises(AssertionError, match="a round takes 1, later 0, and keeps 1"):
        check_promises(core)


def test_more_promises_than_pages_are_found(blob: Blob) -> None:
    core, _pages = core_and_pages(blob)
    core.reservations.set(blob.id, Need(24, 0))
    with pytest.raises(AssertionError, match="more pages are promised than there are"):
        check_promises(core)


def test_a_promise_to_a_clean_blob_is_found(blob: Blob) -> None:
    core, _pages = core_and_pages(blob)
    blob.flush()
    check_promises(core)
    core.reservations.set(blob.id, Need(1, 0))
    with pytest.raises(AssertionError, match="is clean, and has a promise"):
        check_promises(core)


def test_a_claimed_page_without_an_owner_is_found(blob: Blob) -> None:
    core, pages = core_and_pages(blob)
    core.pages.claim()
    with pytest.raises(AssertionError):
        check_claims(core, pages)
