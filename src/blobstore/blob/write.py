"""Writing a blob: owned clusters in place, unallocated ones made whole before they are published.

No reader ever gets bytes that were not written to the blob: a new cluster holds the parent's
content or zeroes, merged with the new data, before the map names the cluster.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from blobstore.blob.exclusive import wait_until_thawed
from blobstore.blob.read import AT_ONCE, plan_read
from blobstore.blob.resolve import Piece, check_open, check_range, has_backing, split
from blobstore.blob.seek import NOT_HELD, depth_runs
from blobstore.errors import InvalidArgumentError, NoSpaceError, ReadOnlyError
from blobstore.locks import fire_all, park
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.host_space import HostSpaceNeededError, give_space, with_space
from blobstore.metadata.persist import free_clusters_for, persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import mark_owned, rereserve, reserve
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Batch, Buffer, Operation, Write, WriteZeroes
from blobstore.units import ClusterIndex, ceil_div

_INLINE_ZEROES: Final = 256 * 1024
"""Up to here zeroes around new data are written with it; beyond, asked of the device."""

_ZEROED_AT_ONCE: Final = 4 * AT_ONCE


class Allocation(NamedTuple):
    """A cluster claimed for a place of the blob that had none."""

    piece: Piece
    cluster: ClusterIndex


def check_data_writable(store: StoreState, blob: BlobState) -> None:
    """Raise `ReadOnlyError` when the blob's data may not be changed."""
    store.check_writable()
    if blob.data_read_only:
        raise ReadOnlyError(f"blob {blob.blob_id:#x}: read-only")


async def write(store: StoreState, blob: BlobState, data: memoryview, offset: int) -> None:
    """Write `data` at `offset`.

    Durability: with the blob's next flush.

    Raises:
        InvalidArgumentError: The range reaches beyond the blob.
        NoSpaceError: No cluster, or no page to note it, is left; nothing changed.
        DeviceError: The device failed; the range holds anything.
    """
    await _change(store, blob, offset, len(data), data)


async def write_zeroes(store: StoreState, blob: BlobState, offset: int, length: int) -> None:
    """Make the range read as zeroes; it is allocated afterwards.

    Raises:
        BlobstoreError: As `write`.
    """
    await _change(store, blob, offset, length, None)


async def _change(
    store: StoreState, blob: BlobState, offset: int, length: int, data: memoryview | None
) -> None:
    check_data_writable(store, blob)
    check_range(blob, store.geometry.cluster_size, offset, length)
    pieces = split(store.geometry.cluster_size, offset, length)
    while pieces:
        pieces = await _try_pieces(store, blob, pieces, data)
    if store.write_through:
        await flush_blob(store, blob)


async def _try_pieces(
    store: StoreState, blob: BlobState, pieces: list[Piece], data: memoryview | None
) -> list[Piece]:
    """Write what can be written now; return what has to be tried again.

    The request is not in flight while it waits: for another writer that
    allocates one of its clusters, or for clusters to come free.
    """
    check_open(blob)
    if pieces[-1].index >= blob.clusters.count:
        raise InvalidArgumentError(f"blob {blob.blob_id:#x}: shrunk below a write in progress")
    if store.allocating:
        for piece in pieces:
            waiting = store.allocating.get((blob.blob_id, piece.index))
            if waiting is not None:
                await park(waiting)
                return pieces
    if blob.frozen_count:
        await wait_until_thawed(store, blob)
        return pieces
    holes = [piece for piece in pieces if not blob.clusters.get(piece.index)]
    if len(holes) > store.clusters.free_count:
        await _make_room(store, len(holes))
        return pieces
    token = store.epochs.enter()
    try:
        return await _write_pieces(store, blob, pieces, holes, data)
    except HostSpaceNeededError as needed:
        page_count = needed.page_count
    finally:
        store.epochs.leave(token)
    await give_space(store, page_count)
    return pieces


async def allocate_clusters(store: StoreState, blob: BlobState, indices: Sequence[int]) -> None:
    """Give the blob clusters of its own at these places, with what it reads there now.

    Raises:
        NoSpaceError: As `write`.
        DeviceError: The device failed; no cluster was allocated.
    """
    nothing = memoryview(b"")
    pieces = [Piece(index, 0, 0, 0) for index in indices]
    while pieces:
        pieces = [
            piece
            for piece in pieces
            if piece.index < blob.clusters.count and not blob.clusters.get(piece.index)
        ]
        if pieces:
            pieces = await _try_pieces(store, blob, pieces, nothing)


async def _make_room(store: StoreState, count: int) -> None:
    async with store.mutex:
        if store.recovery_plan or store.unmapped_count:
            await begin_change(store)
        await free_clusters_for(store, count)


async def _write_pieces(
    store: StoreState,
    blob: BlobState,
    pieces: Sequence[Piece],
    holes: Sequence[Piece],
    data: memoryview | None,
) -> list[Piece]:
    """Write the pieces part by part; return those whose place has changed meanwhile.

    Space is claimed for all of them first: a write that finds too little changes nothing. The
    caller may stop between two parts; clusters that no map names yet are given up then.
    """
    new = {allocation.piece.index: allocation for allocation in _allocate(store, blob, holes)}
    again: list[Piece] = []
    try:
        for number, part in enumerate(_parts(pieces, _ZEROED_AT_ONCE if data is None else AT_ONCE)):
            if number:
                await store.checkpoint()
            again += await _write_part(store, blob, part, new, data)
    finally:
        if new:
            _give_up(store, blob, list(new.values()))
    return again


def _parts(pieces: Sequence[Piece], size: int) -> list[Sequence[Piece]]:
    """Cut pieces into parts of about `size` bytes, at the borders of clusters."""
    if not pieces or pieces[-1].at + pieces[-1].length - pieces[0].at <= size:
        return [pieces]
    parts: list[Sequence[Piece]] = []
    first = 0
    for number, piece in enumerate(pieces):
        if piece.at - pieces[first].at >= size:
            parts.append(pieces[first:number])
            first = number
    return [*parts, pieces[first:]]


async def _write_part(
    store: StoreState,
    blob: BlobState,
    part: Sequence[Piece],
    new: dict[int, Allocation],
    data: memoryview | None,
) -> list[Piece]:
    """Write some pieces, and publish their new clusters, which `new` has no more then."""
    mine = [new[piece.index] for piece in part if piece.index in new] if new else []
    buffers: list[bytearray] = []
    try:
        operations = _write_owned(store, blob, part, data) if len(mine) < len(part) else []
        for allocation in mine:
            if has_backing(blob):
                buffers.append(store.take_buffer())
                merged = await _merge_with_backing(store, blob, allocation, data, buffers[-1])
                operations.append(merged)
            else:
                operations += _make_whole(store, allocation, data)
        await (operations[0] if len(operations) == 1 else Batch(operations))
    finally:
        store.keep_buffers(buffers)
    for allocation in mine:
        del new[allocation.piece.index]
    return _publish(store, blob, mine)


def _allocate(store: StoreState, blob: BlobState, holes: Sequence[Piece]) -> list[Allocation]:
    """Claim clusters and promise the pages that persisting them can take: all or nothing."""
    if not holes:
        return []
    places = [piece.index for piece in holes]
    cost = blob.allocation_cost(places)
    if any(cost) or not store.reservations.holds(blob.blob_id):
        reserve(store, blob, cost, places=places, is_asked=False)
    clusters = store.clusters.claim_many(len(holes))
    for piece in holes:
        store.allocating[blob.blob_id, piece.index] = deque()
    return [
        Allocation(piece, ClusterIndex(cluster))
        for piece, cluster in zip(holes, clusters, strict=True)
    ]


def _write_owned(
    store: StoreState, blob: BlobState, pieces: Sequence[Piece], data: memoryview | None
) -> list[Operation[Any]]:
    """Return the writes to clusters that the blob owns already, neighbours merged."""
    spans: list[tuple[int, int, int]] = []
    for piece in pieces:
        cluster = blob.clusters.get(piece.index)
        if not cluster:
            continue
        place = store.geometry.cluster_offset(ClusterIndex(cluster)) + piece.start
        if spans and (spans[-1][0] + spans[-1][2], spans[-1][1] + spans[-1][2]) == (
            place,
            piece.at,
        ):
            start, at, length = spans[-1]
            spans[-1] = (start, at, length + piece.length)
        else:
            spans.append((place, piece.at, piece.length))
    if data is None:
        return [WriteZeroes(place, length) for place, _at, length in spans]
    return [Write(place, data[at : at + length]) for place, at, length in spans]


async def _merge_with_backing(
    store: StoreState,
    blob: BlobState,
    new: Allocation,
    data: memoryview | None,
    buffer: bytearray,
) -> Write:
    """Return the write that gives a new cluster what the blob shows there, and the new data."""
    piece = new.piece
    begin, end = piece.index * store.geometry.cluster_size, piece.start + piece.length
    view = memoryview(buffer)
    reads = plan_read(store, blob, view[: piece.start], begin)
    reads += plan_read(store, blob, view[end:], begin + end)
    if reads:
        await Batch(reads)
    middle = bytes(piece.length) if data is None else data[piece.at : piece.at + piece.length]
    place = store.geometry.cluster_offset(new.cluster)
    return Write(place, view[: piece.start], middle, view[end:])


def _make_whole(
    store: StoreState, new: Allocation, data: memoryview | None
) -> list[Operation[Any]]:
    """Return the writes that give a new cluster all of its content, where all else is zeroes."""
    piece = new.piece
    place = store.geometry.cluster_offset(new.cluster)
    rest = store.geometry.cluster_size - piece.start - piece.length
    middle = None if data is None else data[piece.at : piece.at + piece.length]
    if store.zeroed_clusters[new.cluster]:
        return [] if middle is None else [Write(place + piece.start, middle)]
    if middle is None:
        return [WriteZeroes(place, store.geometry.cluster_size)]
    if piece.start + rest <= _INLINE_ZEROES:
        return [Write(place, *_around(piece.start, middle, rest))]
    zeroes = [
        WriteZeroes(at, length)
        for at, length in ((place, piece.start), (place + piece.start + piece.length, rest))
        if length
    ]
    return [*zeroes, Write(place + piece.start, middle)]


def _around(start: int, middle: memoryview, rest: int) -> list[Buffer]:
    parts: list[Buffer] = [bytes(start), middle, bytes(rest)]
    return [part for part in parts if len(part)]


def _publish(store: StoreState, blob: BlobState, new: Sequence[Allocation]) -> list[Piece]:
    """Let the map name the new clusters; return the pieces whose place has changed meanwhile."""
    again: list[Piece] = []
    for allocation in new:
        index = allocation.piece.index
        if index < blob.clusters.count and not blob.clusters.get(index):
            blob.clusters.set(index, allocation.cluster)
            if blob.pin_count:
                store.forget_inherited()  # clones of a blob that is not read-only see the change
            mark_owned(store, [allocation.cluster])
        else:
            _return_cluster(store, allocation.cluster)
            if index < blob.clusters.count:
                again.append(allocation.piece)
        _wake(store, blob, index)
    return again


def _give_up(store: StoreState, blob: BlobState, new: Sequence[Allocation]) -> None:
    """Release everything that was claimed and reserved for a write that failed."""
    blob.pair_bound -= blob.allocation_cost([allocation.piece.index for allocation in new]).pairs
    for allocation in new:
        _return_cluster(store, allocation.cluster)
        _wake(store, blob, allocation.piece.index)
    rereserve(store, blob)


def _return_cluster(store: StoreState, cluster: ClusterIndex) -> None:
    """Release a cluster that no map ever named; a flush separates old writes from new ones."""
    store.zeroed_clusters[cluster] = False
    store.clusters.mark_pending(1)
    store.defer([], lambda: store.clusters.free_pending([cluster]))


def _wake(store: StoreState, blob: BlobState, index: int) -> None:
    fire_all(store.allocating.pop((blob.blob_id, index)))


async def clear(store: StoreState, blob: BlobState, offset: int, length: int) -> None:
    """Make the range read as zeroes; a hole stays one where nothing shows through it.

    A snapshot can be made while the range is deallocated: holes show it then.

    Raises:
        BlobstoreError: As `write`.
    """
    if not has_backing(blob):
        await unmap(store, blob, offset, length)
    if not has_backing(blob):
        return
    check_data_writable(store, blob)
    size = store.geometry.cluster_size
    check_range(blob, size, offset, length)
    at, end = offset, offset + length
    for last, depth in list(depth_runs(blob, offset // size, ceil_div(end, size))):
        stop = min(last * size, end)
        if depth != NOT_HELD:
            await write_zeroes(store, blob, at, stop - at)
        at = stop


async def unmap(store: StoreState, blob: BlobState, offset: int, length: int) -> None:
    """Deallocate the range; what was allocated in it reads as zeroes afterwards.

    A whole cluster of a thin blob without parent becomes a hole. On a clone
    nothing is released: what is unallocated keeps reading the parent.

    Raises:
        ClosedError: No caller has the blob open.
        ReadOnlyError: The blob or the store is read-only.
        InvalidArgumentError: The range reaches beyond the blob.
        DeviceError: The device failed; the range holds anything.
    """
    await wait_until_thawed(store, blob)
    # After the wait, not before: meanwhile the blob can be closed, or get another size.
    check_open(blob)
    check_data_writable(store, blob)
    check_range(blob, store.geometry.cluster_size, offset, length)
    token = store.epochs.enter()
    try:
        pieces = split(store.geometry.cluster_size, offset, length)
        for number, part in enumerate(_parts(pieces, _ZEROED_AT_ONCE)):
            if number:
                await store.checkpoint()
            await _unmap_part(store, blob, part)
    finally:
        store.epochs.leave(token)
    if store.write_through:
        await flush_blob(store, blob)


async def _unmap_part(store: StoreState, blob: BlobState, part: Sequence[Piece]) -> None:
    zeroed: list[Piece] = []
    for piece in part:
        if blob.clusters.get(piece.index) and not await _release(store, blob, piece):
            zeroed.append(piece)
    operations = _write_owned(store, blob, zeroed, None)
    if operations:
        await Batch(operations)


async def _release(store: StoreState, blob: BlobState, piece: Piece) -> bool:
    """Make a hole of a whole cluster, if the blob may have one there; return whether."""
    try:
        return await with_space(store, lambda: _make_hole(store, blob, piece))
    except NoSpaceError:
        return False  # without a page to note the hole, zeroes in place say the same


def _make_hole(store: StoreState, blob: BlobState, piece: Piece) -> bool:
    if piece.length < store.geometry.cluster_size or not blob.is_thin or has_backing(blob):
        return False
    if blob.blob_id in store.exclusive:
        return False  # an inflate counts on every cluster that is there
    cluster = blob.clusters.get(piece.index)
    if cluster:
        places = [piece.index]
        reserve(store, blob, blob.allocation_cost(places), places=places, is_asked=False)
        store.unmapped[blob.blob_id].append(cluster)
        blob.clusters.set(piece.index, 0)
        if blob.pin_count:
            store.forget_inherited()
        store.unmapped_count += 1
    return True


async def flush_blob(store: StoreState, blob: BlobState) -> None:
    """Make all that was written to the blob durable, data and metadata.

    Another task may be at making the metadata durable: then this one waits for its end, and
    flushes, because the last flush of the other one may have begun before the data were written.

    Raises:
        DeviceError: The device failed; the store is poisoned.
    """
    store.check_open()
    if store.read_only:
        return
    if not blob.is_durable:
        async with store.mutex:
            if blob.is_dirty:
                await begin_change(store)
                await persist(store, blob)
                return
    await store.flush_device()
