"""Metadata pages counted again: what is claimed, and what was promised, against what is there.

The core computes promises by hand in several places, from bounds that it keeps up to date. Here
they are compared with the thing itself: the pages that all blobs have, and the pages that a round
would write now, packed as a round packs them. Between two calls nothing is in flight.
"""

from blobstore.alloc.reservation import Need
from blobstore.format.chain import pack_chain
from blobstore.format.root import Layout
from blobstore.metadata.blob_state import BlobState, table_entries
from blobstore.metadata.space import spare_pages
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId

_NEW_PAGE = 1
_REWRITTEN_AT_ONCE = 2
"""So many changed extent pages a round takes at least, those at the blob's ends."""


def check_promises(store: StoreState) -> None:
    """Assert that promised pages are there and are enough, and that no clean blob has any."""
    needs = store.reservations._needs
    assert store.reservations.total == sum(need.lasting for need in needs.values()) + max(
        (need.passing for need in needs.values()), default=0
    )
    assert spare_pages(store) >= 0, "more pages are promised than there are"
    for blob_id in needs:
        blob = store.open_blobs.get(BlobId(blob_id))
        assert blob is not None, f"{blob_id:#x} is not open, and has a promise"
        assert blob.is_dirty, f"{blob_id:#x} is clean, and has a promise"
    for blob in store.open_blobs.values():
        if blob.is_dirty:
            _check_enough(store, blob, needs.get(blob.blob_id, Need(0, 0)))


def _check_enough(store: StoreState, blob: BlobState, promised: Need) -> None:
    """Assert that every round of this blob finds its pages, and that all rounds keep the rest."""
    pages = blob.present_pages
    changed = [
        leaf
        for leaf in blob.clusters.dirty_leaves
        if blob.extent_pages is not None and (leaf in pages or any(blob.clusters.leaves[leaf]))
    ]
    new = [leaf for leaf in changed if leaf not in pages]
    chain = _chain_length(store, blob, [*pages, *new])
    rewritten = min(_REWRITTEN_AT_ONCE, len(changed) - len(new))
    first = len(new) + rewritten + chain + _copies(store, blob)
    kept = len(new) + max(0, chain - len(blob.chain))
    later = kept + rewritten + chain if len(changed) - len(new) > rewritten else 0
    what = f"{blob.blob_id:#x}: {promised}, a round takes {first}, later {later}, and keeps {kept}"
    assert promised.lasting >= kept, what
    assert sum(promised) >= max(first, later), what


def _chain_length(store: StoreState, blob: BlobState, leaves: list[int]) -> int:
    """Return how many pages the blob's chain takes beside its root, written now."""
    table = runs = None
    if blob.extent_pages is None:
        runs = blob.clusters.runs()
    else:
        entries = table_entries(len(blob.extent_pages), dict.fromkeys(leaves, _NEW_PAGE))
        table = (blob.clusters.count, entries)
    bodies = pack_chain(
        flags=blob.flags_to_write(),
        xattrs=blob.xattrs_to_write(),
        runs=runs,
        table=table,
        root_capacity=store.layout.capacity,
    )
    return len(bodies) - 1


def _copies(store: StoreState, blob: BlobState) -> int:
    """Return how many pages it takes to bring a full root out of the original's layout."""
    state = blob.root_state
    is_foreign = store.layout is Layout.SECTOR and state.layout is Layout.COMPACT
    return int(is_foreign and state.needs_copy)


def check_claims(store: StoreState, owned: set[int]) -> None:
    """Assert that every claimed page has an owner, or waits for a flush, and that none has two."""
    waiting = {page for blob in store.open_blobs.values() for page in blob.cut_extent_pages}
    assert not waiting & owned
    claimed = store.pages.used.count()
    assert claimed == len(waiting | owned) + store.pages.pending_count
    assert claimed + store.pages.free_count == len(store.pages.used)
    assert all(store.pages.used[page] for page in owned)
