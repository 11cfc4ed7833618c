"""Reading a blob: the full path, for every request that the fast path leaves."""

from typing import Any, Final

from blobstore.blob.resolve import check_open, check_range, resolve_owner, split
from blobstore.errors import UnsupportedError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Batch, Operation, ReadExternal, ReadInto
from blobstore.units import ClusterIndex

AT_ONCE: Final = 8 << 20
"""A request is read or written in parts of this many bytes. After each the caller may stop."""


async def read_into(store: StoreState, blob: BlobState, view: memoryview, offset: int) -> None:
    """Fill `view` with the blob's bytes at `offset`.

    Raises:
        InvalidArgumentError: The range reaches beyond the blob.
        DeviceError: The device failed; `view` holds anything.
    """
    check_open(blob)
    check_range(blob, store.geometry.cluster_size, offset, len(view))
    if len(view) > AT_ONCE:
        await _read_in_parts(store, blob, view, offset)
        return
    token = store.epochs.enter()
    try:
        reads = plan_read(store, blob, view, offset)
        if len(reads) == 1:
            await reads[0]
        elif reads:
            await Batch(reads)
    finally:
        store.epochs.leave(token)


async def _read_in_parts(store: StoreState, blob: BlobState, view: memoryview, offset: int) -> None:
    """Read a long range part by part; the caller may stop between two."""
    for at in range(0, len(view), AT_ONCE):
        if at:
            await store.checkpoint()
        await read_into(store, blob, view[at : at + AT_ONCE], offset + at)


def plan_read(
    store: StoreState, blob: BlobState, view: memoryview, offset: int
) -> list[Operation[Any]]:
    """Return the reads that fill `view`, neighbours merged; holes are filled at once."""
    geometry = store.geometry
    reads: list[Operation[Any]] = []
    spans: list[tuple[int, int, int]] = []
    for piece in split(geometry.cluster_size, offset, len(view)):
        cluster, clone = resolve_owner(store, blob, piece.index)
        if not cluster:
            part = view[piece.at : piece.at + piece.length]
            place = piece.index * geometry.cluster_size + piece.start
            reads += _read_outside(clone, part, place)
            continue
        place = geometry.cluster_offset(ClusterIndex(cluster)) + piece.start
        if spans and _follows(spans[-1], place, piece.at):
            start, at, length = spans[-1]
            spans[-1] = (start, at, length + piece.length)
        else:
            spans.append((place, piece.at, piece.length))
    return reads + [ReadInto(place, [view[at : at + length]]) for place, at, length in spans]


def _read_outside(clone: BlobState | None, part: memoryview, offset: int) -> list[Operation[Any]]:
    """Fill what no cluster of the store holds: zeroes, or an external snapshot's bytes.

    Raises:
        UnsupportedError: The caller has not registered the external snapshot.
    """
    if clone is None:
        part[:] = bytes(len(part))
        return []
    source = clone.external
    if source is None:
        raise UnsupportedError(
            f"blob {clone.blob_id:#x}: its external snapshot {clone.external_id!r} is not available"
        )
    there = max(0, min(len(part), source.size_bytes - offset))
    part[there:] = bytes(len(part) - there)
    return [ReadExternal(source, offset, part[:there])] if there else []


def _follows(span: tuple[int, int, int], place: int, at: int) -> bool:
    start, first, length = span
    return start + length == place and first + length == at
