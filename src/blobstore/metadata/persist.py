"""Bringing a blob's metadata to the device (CRASH-SAFETY 2, 3).

The root is the only page of a blob that is written in place, and one atomic write of it moves the
blob from one state to the next. All other pages are copied on write. So a round is:

    claim places    reserved before, so this never fails for want of space
    write           chain and extent pages, to these places
    F               now whatever the root will name is durable
    write           the root: before it the old state, after it the new one
    F               the commit: the caller may be told, memory may follow
    release         the places that the old state named

Without the first flush a power failure could leave a root that names pages of garbage. Without the
second, pages could be released and written again while the medium still has the old root, which
names them.

The content of a round is fixed before the round waits for anything: flags, pages and runs are
encoded, and the leaves are marked clean. Data requests continue meanwhile. Whatever they change
becomes dirty again, and belongs to the next round. If there is room for few copies only, a round
takes some of the changed extent pages. Every round leaves a valid state: extent pages are
independent of each other, but the pages at the old and at the new end of the blob change together
with its size.

In the original's layout a root fills its page, and a device that tears at 512 bytes could leave a
page that is neither old nor new. Such a root is converted once, when it first changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from blobstore.alloc.leaves import LEAF_SHIFT
from blobstore.format.chain import pack_chain
from blobstore.format.checksum import SECTOR_SIZE, crc32c
from blobstore.format.descriptors import ExtentPage, Flags
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.pairs import PackedPairs
from blobstore.format.root import (
    TAIL_OFFSET,
    Layout,
    RootState,
    convert_step_one,
    convert_step_two,
    descriptors_length,
    encode_sector_head,
    encode_sector_tail,
    rewritten_from_copy,
)
from blobstore.metadata.blob_state import (
    ABSENT_PAGE,
    BlobState,
    extent_table_of,
    table_entries,
)
from blobstore.metadata.dirty_flag import mark_dirty, poisoning
from blobstore.metadata.space import (
    claim_chain_pages,
    clear_and_free,
    mark_clusters_pending,
    release_pages,
    rereserve,
    settle_clusters,
    spare_pages,
)
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Batch, Operation, Read, Write
from blobstore.units import PageIndex


@dataclass(slots=True)
class Round:
    """One step from a state on disk to the next; `extent_pages` are those that are there."""

    leaves: list[int]
    flags: Flags
    extent_pages: dict[int, int] | None
    replaced: list[PageIndex]
    chain: Sequence[PageIndex] = ()
    bodies: list[bytes] = field(default_factory=list)
    writes: list[Operation[Any]] = field(default_factory=list)
    copy: PageIndex | None = None
    released: list[tuple[int, int]] = field(default_factory=list)
    unmapped: list[int] = field(default_factory=list)


async def free_clusters_for(store: StoreState, count: int) -> None:
    """See to it that `count` clusters can be claimed; the caller holds the mutex.

    What is only released is committed first.

    Raises:
        NoSpaceError: There are not as many.
    """
    if store.clusters.available < count:
        for blob_id in list(store.unmapped):
            await persist(store, store.open_blobs[blob_id])
    if store.clusters.available < count:
        raise store.clusters.exhausted(count)
    await settle_clusters(store, count)


async def persist(store: StoreState, blob: BlobState, *, at_once: bool = False) -> None:
    """Make all that is dirty in the blob durable; the caller holds the mutex.

    `at_once` asks for a single round, for which the pages must be there.

    Raises:
        DeviceError: A write or a flush failed; the store is poisoned.
    """
    if not blob.is_dirty:
        return
    await mark_dirty(store)
    blob.is_committing = True
    try:
        with poisoning(store):
            await _convert_in_place(store, blob)
            released = await _persist_in_rounds(store, blob, at_once=at_once)
    finally:
        blob.is_committing = False
    # All in one call: the caller may stop while the first are cleared, and the rest is free then.
    await clear_and_free(store, released, clear_method=blob.clear_method)


async def _persist_in_rounds(store: StoreState, blob: BlobState, *, at_once: bool) -> PackedPairs:
    """Commit round after round; return the runs of clusters that these released."""
    released = PackedPairs()
    while blob.is_dirty:
        if _one_page_decides(store, blob):
            this = await _rewrite_extent_page(store, blob)
        else:
            this = _begin_round(store, blob, at_once=at_once)
            await _finish_round(store, blob, this)
        released.extend(_commit(store, blob, this))
    return released


async def persist_new(store: StoreState, blob: BlobState) -> None:
    """Make a blob durable that has no root on disk yet; the caller holds the mutex.

    The pages it takes must be there: `spare_pages` says so beforehand.
    """
    with poisoning(store):
        this = _begin_round(store, blob)
        if store.layout is Layout.SECTOR:
            head = encode_sector_head(blob.blob_id)
            blob.root_state = RootState(Layout.SECTOR, crc32c(head))
            this.writes.append(_write_page(store, blob.root, head))
        await _finish_round(store, blob, this)
        _commit(store, blob, this)


async def _finish_round(store: StoreState, blob: BlobState, this: Round) -> None:
    """Write what the round says: everything new first, then the root that names it."""
    await _place(store, blob, this)
    if this.writes:
        await Batch(this.writes)
    # Clusters count as well: a map must not be durable before what was written to them.
    if this.writes or this.leaves:
        await store.flush_device()
    await write_root(store, blob, this.bodies[0], next_page=_first(this.chain), copy=this.copy)
    # Until this flush has ended the old root can come back: what it names is not released yet.
    await store.flush_device()


def _one_page_decides(store: StoreState, blob: BlobState) -> bool:
    """Tell whether a single write of one existing extent page says all that changed."""
    leaves = blob.clusters.dirty_leaves
    return (
        store.layout is Layout.COMPACT
        and blob.extent_pages is not None
        and not blob.is_root_dirty
        and len(leaves) == 1
        and blob.extent_pages[next(iter(leaves))] != ABSENT_PAGE
    )


async def _rewrite_extent_page(store: StoreState, blob: BlobState) -> Round:
    """Rewrite one extent page in place, on a device that writes it whole: a round of its own."""
    this = _begin_round(store, blob)
    (leaf,) = this.leaves
    write = _write_page(store, PageIndex(_page_at(blob, leaf)), _encode_extents(blob, leaf))
    await store.flush_device()  # the clusters that the page is about to name
    await write
    await store.flush_device()
    this.chain = blob.chain
    return this


def _begin_round(store: StoreState, blob: BlobState, *, at_once: bool = False) -> Round:
    """Take over what this round will say; what changes from now on is the next one's."""
    leaves = sorted(blob.clusters.dirty_leaves) if at_once else _choose_leaves(store, blob)
    this = Round(
        leaves=leaves,
        flags=blob.flags_to_write(),
        extent_pages=None if blob.extent_pages is None else dict(blob.present_pages),
        replaced=[PageIndex(page) for page in blob.cut_extent_pages],
    )
    blob.cut_extent_pages = ()
    if len(leaves) == len(blob.clusters.dirty_leaves):
        this.released += blob.cut_runs
        blob.cut_runs = ()
        this.unmapped = store.unmapped.pop(blob.blob_id, [])
    # Clean from now on, and not from the commit: a write in between makes a leaf dirty again.
    blob.clusters.clean(leaves)
    blob.leaves_in_round = leaves
    blob.is_root_dirty = False
    return this


def _choose_leaves(store: StoreState, blob: BlobState) -> list[int]:
    """Return the dirty leaves that this round writes: all, if there is room for their copies.

    Those without a page yet take room for good and are all written. Of the
    others, those at the blob's old and new end go first: they must change
    together with its size.
    """
    dirty = sorted(blob.clusters.dirty_leaves)
    if blob.extent_pages is None or not dirty:
        return dirty
    new = [leaf for leaf in dirty if _page_at(blob, leaf) == ABSENT_PAGE]
    ends = {n >> LEAF_SHIFT for n in (blob.disk_count - 1, blob.clusters.count - 1) if n >= 0}
    rewritten = sorted(set(dirty).difference(new), key=lambda leaf: (leaf not in ends, leaf))
    room = spare_pages(store) - len(new) - blob.chain_pages_bound(store.layout, blob.pair_bound)
    return sorted(new + rewritten[: max(2, room)])


def _page_at(blob: BlobState, leaf: int) -> int:
    pages = blob.extent_pages or []
    return pages[leaf] if leaf < len(pages) else ABSENT_PAGE


async def _place(store: StoreState, blob: BlobState, this: Round) -> None:
    """Encode what the round says, and claim the places that it goes to.

    What the clusters are is taken down before anything is waited for: the data
    path may go on meanwhile, and what it changes is the next round's.
    """
    leaves = [(leaf, _encode_extents(blob, leaf)) for leaf in _leaves_with_page(blob, this)]
    runs = blob.clusters.runs() if this.extent_pages is None else None
    _bound_pairs(store, blob, this, runs)
    if store.layout is Layout.SECTOR and blob.root_state.layout is Layout.COMPACT:
        await _place_copy(store, blob, this)
    places = await claim_chain_pages(store, len(leaves))
    for (leaf, page), place in zip(leaves, places, strict=True):
        _place_leaf(this, leaf, place)
        this.writes.append(_write_page(store, place, page))
    _pack(store, blob, this, runs)
    this.chain = await claim_chain_pages(store, len(this.bodies) - 1)
    this.writes += _chain_writes(store, blob, this)


def _bound_pairs(store: StoreState, blob: BlobState, this: Round, runs: PackedPairs | None) -> None:
    """Count again from what this round writes, and from writes in flight."""
    pair_count = len(runs or ())
    if this.extent_pages is not None:
        pages = {**this.extent_pages, **dict.fromkeys(_leaves_with_page(blob, this), NO_PAGE)}
        pair_count = len(table_entries(_table_length(blob), pages))
    blob.pair_bound = pair_count + blob.allocation_cost(store.places_in_flight(blob)).pairs


async def _place_copy(store: StoreState, blob: BlobState, this: Round) -> None:
    root = await Read(store.geometry.page_offset(blob.root), PAGE_SIZE)
    (this.copy,) = await claim_chain_pages(store, 1)
    this.writes.append(_write_page(store, this.copy, root))


def _leaves_with_page(blob: BlobState, this: Round) -> list[int]:
    """Return the leaves of this round that have, or get, an extent page.

    An extent page stays when its last cluster is released; a leaf that never
    had one and is empty gets none.
    """
    if this.extent_pages is None:
        return []
    return [
        leaf for leaf in this.leaves if leaf in this.extent_pages or any(blob.clusters.leaves[leaf])
    ]


def _place_leaf(this: Round, leaf: int, place: PageIndex) -> None:
    assert this.extent_pages is not None
    if leaf in this.extent_pages:
        this.replaced.append(PageIndex(this.extent_pages[leaf]))
    this.extent_pages[leaf] = place


def _pack(store: StoreState, blob: BlobState, this: Round, runs: PackedPairs | None) -> None:
    table = None
    if this.extent_pages is not None:
        entries = table_entries(_table_length(blob), this.extent_pages)
        table = (blob.clusters.count, entries)
    this.bodies = pack_chain(
        flags=this.flags,
        xattrs=blob.xattrs_to_write(),
        runs=runs,
        table=table,
        root_capacity=store.layout.capacity,
    )


def _table_length(blob: BlobState) -> int:
    return len(blob.extent_pages or ())


def _chain_writes(store: StoreState, blob: BlobState, this: Round) -> list[Operation[Any]]:
    """Return the writes of all pages of the round's chain but its root."""
    following = [*this.chain[1:], NO_PAGE]
    return [
        _write_page(store, at, MetadataPage(blob.blob_id, sequence, body, next_page).encode())
        for sequence, (at, body, next_page) in enumerate(
            zip(this.chain, this.bodies[1:], following, strict=False), start=1
        )
    ]


async def write_root(
    store: StoreState,
    blob: BlobState,
    body: bytes,
    *,
    next_page: PageIndex,
    copy: PageIndex | None = None,
) -> None:
    """Let the root page say what `body` says, by one atomic write; the caller flushes.

    With a copy the root is in the original's layout, and may be torn: recovery
    then takes the copy.
    """
    offset = store.geometry.page_offset(blob.root)
    if store.layout is Layout.COMPACT:
        page = MetadataPage(blob.blob_id, 0, body, next_page)
        await Write(offset, page.encode())
        blob.root_state = RootState(Layout.COMPACT, 0)
    elif copy is not None:
        await _rewrite_root(store, blob, body, next_page=next_page, copy=copy)
    else:
        tail = encode_sector_tail(body, next_page=next_page, head_crc=blob.root_state.head_crc)
        await Write(offset + TAIL_OFFSET, tail)


async def _rewrite_root(
    store: StoreState, blob: BlobState, body: bytes, *, next_page: PageIndex, copy: PageIndex
) -> None:
    """Convert a root by way of its copy, and erase the copy afterwards."""
    offset = store.geometry.page_offset(blob.root)
    old = await Read(offset, PAGE_SIZE)
    head_crc = crc32c(rewritten_from_copy(old, b"")[:TAIL_OFFSET])
    tail = encode_sector_tail(body, next_page=next_page, head_crc=head_crc)
    new = rewritten_from_copy(old, tail)
    await Batch([Write(offset, new[:SECTOR_SIZE]), Write(offset + TAIL_OFFSET, tail)])
    await store.flush_device()
    blob.root_state = RootState(Layout.SECTOR, head_crc)
    release_pages(store, [copy])


def _write_page(store: StoreState, page: PageIndex, data: bytes) -> Write:
    return Write(store.geometry.page_offset(page), data)


def _encode_extents(blob: BlobState, leaf: int) -> bytes:
    """Return the extent page of a leaf; its id is always the blob's that writes it."""
    entries = blob.clusters.entries(leaf)
    body = ExtentPage(leaf << LEAF_SHIFT, entries.tobytes()).encode()
    return MetadataPage(blob.blob_id, 0, body, NO_PAGE).encode()


def _first(chain: Sequence[PageIndex]) -> PageIndex:
    return chain[0] if chain else NO_PAGE


def _commit(store: StoreState, blob: BlobState, this: Round) -> PackedPairs:
    """Note that the round is durable, and release what it replaced; return released clusters."""
    release_pages(store, this.replaced + [page for page in blob.chain if page not in this.chain])
    blob.chain = this.chain or ()
    if this.extent_pages is not None:
        blob.extent_pages = extent_table_of(_table_length(blob), this.extent_pages)
    blob.leaves_in_round = ()
    blob.disk_count = blob.clusters.count
    blob.take_derived_flags(this.flags)
    blob.apply_read_only_flags(this.flags)
    rereserve(store, blob)
    store.unmapped_count -= len(this.unmapped)
    released = this.released + [(cluster, 1) for cluster in this.unmapped]
    return mark_clusters_pending(store, released) if released else PackedPairs()


async def _convert_in_place(store: StoreState, blob: BlobState) -> None:
    """Bring a short root from the original's layout into the sector layout (CRASH-SAFETY 2).

    Two atomic writes, and the page says the same before, between and after
    them. A root with more to say is converted by way of a copy.
    """
    state = blob.root_state
    if store.layout is Layout.COMPACT or state.layout is Layout.SECTOR or state.needs_copy:
        return
    offset = store.geometry.page_offset(blob.root)
    page = await Read(offset, PAGE_SIZE)
    length = descriptors_length(page)
    # No reader looks at the last sector yet: the page still reads as before.
    tail = convert_step_one(page, page[HEAD.size : HEAD.size + length])
    await Write(offset + TAIL_OFFSET, tail)
    await store.flush_device()
    # From this sector on every reader skips to the last one, which says the same.
    first = convert_step_two(page)
    await Write(offset, first)
    await store.flush_device()
    blob.root_state = RootState(Layout.SECTOR, crc32c(first + page[SECTOR_SIZE:TAIL_OFFSET]))
