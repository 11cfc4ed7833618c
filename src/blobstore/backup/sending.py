"""Sending: a snapshot, or what one has that another has not, as a stream.

The maps say what to send, and nothing else is read.
"""

import errno
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from blobstore.api.blob import Blob
from blobstore.backup.snapshot_identity import (
    IDENTIFYING,
    SNAPSHOT_TIME,
    check_read_only,
    identity_in,
    identity_of,
    taken_at,
)
from blobstore.backup.stream_format import (
    DATA_MAX,
    Begin,
    Data,
    Record,
    StreamEncoder,
    Zeroes,
)
from blobstore.backup.unfinished import MARKS
from blobstore.errors import InvalidArgumentError, naming
from blobstore.format.descriptors import encode_name
from blobstore.operations import Buffer
from blobstore.store.describe import BlobInfo
from blobstore.store.relations import SNAPSHOT_ID
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import KIB
from blobstore.volumes.identity import NAME, UUID_NAME

DEFAULT_LEVEL: Final = 3
"""The level of zstd: a gigabyte takes some seconds."""

OF_ONE_STORE: Final = frozenset({NAME, UUID_NAME, SNAPSHOT_ID, SNAPSHOT_TIME, *MARKS})
"""Attributes that are said otherwise, or belong to one store alone."""

_LARGE_CLUSTER: Final = 64 * KIB

Progress = Callable[[int], object]
"""Takes how many bytes of the blob were sent or received since the last call."""


class Writable(Protocol):
    """A binary file, pipe or socket file to write to."""

    def write(self, data: Buffer, /) -> object:
        """Write all of it, or, if it is not buffered, a part."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a stream took: bytes of the blob, records, and bytes of the stream."""

    data_length: int
    record_count: int
    stream_length: int


def send(
    snapshot: Blob,
    stream: Writable,
    *,
    base: Blob | None = None,
    level: int = DEFAULT_LEVEL,
    start: int = 0,
    progress: Progress | None = None,
) -> Sent:
    """Write a snapshot to a stream, or what differs between a `base` and the snapshot.

    `level` is zstd's, 0 sends as it is. `start` is the offset from which an interrupted stream
    goes on. Memory for one record is taken, whatever the size.

    Raises:
        InvalidArgumentError: One of the two can be written to, has no identity, or is of
            another store.
        DeviceError: The device failed.
        OSError: The stream failed.
    """
    encoder = StreamEncoder(level)
    data_length = record_count = stream_length = 0
    for record in records_of(snapshot, base, start=start):
        stream_length += _write(stream, encoder.encode(record))
        record_count += 1
        if isinstance(record, Data):
            length = memoryview(record.content).nbytes
            data_length += length
            if progress is not None:
                progress(length)
    stream_length += _write(stream, encoder.end())
    return Sent(data_length, record_count, stream_length)


def records_of(snapshot: Blob, base: Blob | None = None, *, start: int = 0) -> Iterator[Record]:
    """Yield the records of a stream; the content of one is only good until the next.

    Raises:
        As `send`, but for what concerns the stream.
    """
    parts = _parts(snapshot, base, start)
    info = snapshot.info
    yield _begin(snapshot, info, base, start, _data_length(parts))
    buffer = memoryview(bytearray(DATA_MAX))
    piece_size = _piece_size(info)
    for offset, length, has_data in parts:
        if not has_data:
            yield Zeroes(offset, length)
            continue
        for at in range(offset, offset + length, DATA_MAX):
            content = buffer[: min(DATA_MAX, offset + length - at)]
            for first in range(0, len(content), piece_size):
                snapshot.read_into(content[first : first + piece_size], at + first)
            yield Data(at, content)


def _piece_size(info: BlobInfo) -> int:
    """Return how many bytes of a snapshot to read at a time.

    A read within one cluster takes the fast path: sixteen reads of 64 KiB take less time than one
    of 1 MiB. Of smaller clusters there would be too many.
    """
    cluster_size = info.size // max(1, info.cluster_count)
    return cluster_size if cluster_size >= _LARGE_CLUSTER else DATA_MAX


def data_length(snapshot: Blob, base: Blob | None = None, *, start: int = 0) -> int:
    """Return how many bytes of data a stream is going to hold.

    Raises:
        InvalidArgumentError: The base is of another store.
    """
    return _data_length(_parts(snapshot, base, start))


def _data_length(parts: list[tuple[int, int, bool]]) -> int:
    return sum(length for _offset, length, has_data in parts if has_data)


def _parts(snapshot: Blob, base: Blob | None, start: int) -> list[tuple[int, int, bool]]:
    """Return what to send from `start` on; nothing is beyond the snapshot's end."""
    found = []
    for offset, length, has_data in snapshot.changed_ranges(base):
        first, end = max(offset, start), min(offset + length, snapshot.size)
        if first < end:
            found.append((first, end - first, has_data))
    return found


def _begin(
    snapshot: Blob, info: BlobInfo, base: Blob | None, start: int, data_length: int
) -> Begin:
    with naming(blob=info.blob_id):
        check_read_only(info.xattrs, is_read_only=info.data_read_only)
        if not 0 <= start <= info.size:
            raise InvalidArgumentError(f"start {start}: outside of {info.size} bytes")
    return Begin(
        size=info.size,
        name=None if info.name is None else encode_name(info.name),
        identity=identity_of(info),
        base=None if base is None else _base_identity(base),
        taken_at=taken_at(info.xattrs),
        start=start,
        data_length=data_length,
        xattrs=tuple(
            (encode_name(name), value)
            for name, value in {**_mark_of_ancestor(snapshot, base), **info.xattrs}.items()
            if name not in OF_ONE_STORE
        ),
    )


def _mark_of_ancestor(snapshot: Blob, base: Blob | None) -> dict[str, bytes]:
    """Return the mark that what is received needs, if a repair has salvaged what is read here.

    What the base reads, the receiver has a base of its own for.
    """
    salvaged = snapshot.nearest_salvaged
    if salvaged is None or (base is not None and salvaged == base.nearest_salvaged):
        return {}
    return {SALVAGED: f"copied from blob {salvaged:#x}, which was salvaged".encode()}


def _base_identity(base: Blob) -> UUID:
    """Return the identity of a base.

    Raises:
        InvalidArgumentError: It can be written to, or has none.
    """
    with naming(blob=base.id):
        # Not `base.info`: that takes as long as the base's map, and the base can be large.
        xattrs = {name: value for name in IDENTIFYING if (value := base.xattrs.get(name))}
        check_read_only(xattrs, is_read_only=base.data_read_only)
        identity = identity_in(xattrs)
        if identity is None and SNAPSHOT_ID in xattrs:
            raise InvalidArgumentError(
                "its content has changed since it was taken, by another parent or by a repair, so "
                "its copies elsewhere may differ: take a new snapshot, and send that whole"
            )
        if identity is None:
            raise InvalidArgumentError(
                "has no identity, so a copy of it cannot be recognised: send it whole, and take "
                "snapshots with `blobstore snapshot` or `blobstore.backup.take_snapshot`"
            )
    return identity


def _write(stream: Writable, buffers: list[Buffer]) -> int:
    """Write buffers to a stream that may take less than it is given at a time.

    Raises:
        BlockingIOError: It does not block, and takes nothing now.
    """
    total = 0
    for buffer in buffers:
        left = memoryview(buffer).cast("B")
        total += len(left)
        while left:
            done = stream.write(left)
            if done is None and isinstance(stream, io.RawIOBase):
                raise BlockingIOError(errno.EAGAIN, "stream: non-blocking, expected blocking")
            left = left[done if isinstance(done, int) else len(left) :]
    return total
