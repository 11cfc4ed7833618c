"""Receiving: a stream becomes a snapshot, whole or not at all.

What comes is written to a new thin blob, or to a clone of the base. Until the end that blob has no
name to be found by, and the attribute `receive_state` says what it is part of and how far it came.
The stream's end is verified first. Then one write of the blob's root removes the mark, makes the
blob read-only, and gives it its name and attributes. A crash leaves the unfinished blob, which the
next stream of the same snapshot goes on with, or the snapshot.

The order of flushes matters: `receive_state` says an offset only when all before it is durable.
"""

import errno
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, Protocol
from uuid import UUID

import msgspec

from blobstore.api.blob import Blob
from blobstore.api.volumes import VolumeStore
from blobstore.backup.any_store import AnyStore, check_new_name, delete_any
from blobstore.backup.sending import OF_ONE_STORE, Progress
from blobstore.backup.snapshot_identity import (
    SNAPSHOT_TIME,
    find_snapshot,
    identity_in,
    identity_of,
    snapshots_in,
)
from blobstore.backup.stream_format import (
    Begin,
    Data,
    MixedStreamError,
    Record,
    StreamDecoder,
    Zeroes,
)
from blobstore.backup.unfinished import INCOMPLETE, RECEIVE_STATE, hidden_name
from blobstore.drivers import interrupts
from blobstore.errors import (
    BlobstoreError,
    CorruptError,
    ExistsError,
    InvalidArgumentError,
    NotFoundError,
)
from blobstore.format.descriptors import decode_name
from blobstore.store.describe import BlobInfo
from blobstore.store.relations import SNAPSHOT_ID
from blobstore.units import MIB
from blobstore.volumes.identity import encode_uuid

_CHECKPOINT_BYTES: Final = 256 * MIB
"""After so much data `receive_state` is brought up to date: a crash loses at most twice that.

Each time the receipt waits for the disk.
"""

_KEPT: Final = "what came is kept: the next stream of this snapshot goes on with it"
_SAME: Final = "the same snapshot is here already"
_OTHER_NAME: Final = "NAME gives the snapshot another name"
_NOT_KEPT: Final = "nothing is kept: send the whole stream again"


class Readable(Protocol):
    """A binary file, pipe or socket file to read from."""

    def read(self, length: int, /) -> bytes | None:
        """Return up to `length` bytes, none at the end."""


class ReceiveState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an unfinished blob is part of; all before `offset` is durable in it."""

    snapshot: UUID
    base: UUID | None
    offset: int


def receive(
    store: AnyStore, stream: Readable, name: str | None = None, *, progress: Progress | None = None
) -> Blob:
    """Make the snapshot that a stream holds, and return it, open.

    `name` is what it is to be called, or else what it was called where it came from. If the
    stream ends early, what came is kept: `unfinished_receipts` finds it, and the next stream of
    the same snapshot goes on with it.

    Durability: on return. A crash leaves the snapshot whole, or an unfinished blob.

    Raises:
        CorruptError: The stream is damaged, ends early, or goes on after its end.
        NotFoundError: The snapshot that it is a difference to is not in this store, or the part
            that it is to be continued from.
        ExistsError: There is a blob of that name.
        InvalidArgumentError: A volume would have no name, or the name is one that cannot be.
        NoSpaceError: No cluster or metadata page is left.
        BlockingIOError: The stream does not block, and has nothing now.
        OSError: The stream failed.
    """
    return receive_records(store, read_records(stream), name, progress=progress)


def read_records(stream: Readable) -> Iterator[Record]:
    """Yield the records of a stream that is read to its end, and verified.

    Raises:
        CorruptError: As `receive`.
    """
    decoder = StreamDecoder()
    while not decoder.has_ended:
        record = decoder.feed(_read_exactly(stream, decoder))
        if record is not None:
            yield record
    if stream.read(1):
        raise CorruptError("stream: goes on after its end")


def _read_exactly(stream: Readable, decoder: StreamDecoder) -> bytes:
    """Return the bytes that the decoder wants next."""
    parts: list[bytes] = []
    missing = decoder.wanted
    while missing:
        part = stream.read(missing)
        if part is None:
            raise BlockingIOError(errno.EAGAIN, "stream: non-blocking, expected blocking")
        if not part and not parts and not decoder.has_begun:
            raise CorruptError("stream: empty, expected what `send` writes")
        if not part:
            raise CorruptError(f"{decoder.place}: the stream ends {missing} bytes early")
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def receive_records(
    store: AnyStore,
    records: Iterable[Record],
    name: str | None = None,
    *,
    progress: Progress | None = None,
) -> Blob:
    """Make a snapshot of records, as `receive` does."""
    stream = iter(records)
    begin = next(stream)
    assert isinstance(begin, Begin)
    wanted = _checked_name(store, begin, name)
    target = _UnfinishedSnapshot(store, begin)
    try:
        target.fit()
        for record in stream:
            assert not isinstance(record, Begin)
            done = target.apply(record)
            if progress is not None:
                progress(done)
        with interrupts.Held():
            return target.finish(wanted)
    except MixedStreamError:
        target.discard()  # which of its records are of this snapshot is not known
        raise
    except BaseException as error:
        error.add_note(_KEPT if target.keep() else _NOT_KEPT)
        raise


def _checked_name(store: AnyStore, begin: Begin, name: str | None) -> str | None:
    """Return what the snapshot is to be called.

    Raises:
        ExistsError, InvalidArgumentError: As `receive`.
    """
    sent = None if begin.name is None else decode_name(begin.name)
    wanted = name if name is not None else sent
    if not wanted and isinstance(store, VolumeStore):
        raise InvalidArgumentError("the stream names no snapshot: a volume needs a name")
    try:
        check_new_name(store, wanted or None)
    except ExistsError as error:
        is_same = wanted is not None and _has_snapshot(store, wanted, begin.identity)
        error.add_note(_SAME if is_same else _OTHER_NAME)
        raise
    return wanted or None


def _has_snapshot(store: AnyStore, name: str, identity: UUID | None) -> bool:
    """Say whether the snapshot of an identity is here, complete and with this name."""
    return identity is not None and any(
        identity_of(info) == identity and info.name == name for info in snapshots_in(store)
    )


class _UnfinishedSnapshot:
    """A snapshot on its way into a store."""

    def __init__(self, store: AnyStore, begin: Begin) -> None:
        self._store = store
        self._begin = begin
        self._durable = 0
        self._at = 0
        self._blob = self._found() or self._made()

    def fit(self) -> None:
        """Give the blob the size of the snapshot; what rounding adds shows nothing of the base."""
        self._blob.resize(self._begin.size)
        clear(self._blob, self._begin.size, self._blob.size)

    def _found(self) -> Blob | None:
        """Return the blob that an earlier stream left.

        Raises:
            NotFoundError: The stream goes on where none has come so far.
        """
        begin = self._begin
        for info, state in unfinished_receipts(self._store):
            is_same = (state.snapshot, state.base) == (begin.identity, begin.base)
            if is_same and state.offset >= begin.start and self._has_base(info):
                self._at = self._durable = state.offset
                return self._store.open_blob(info.blob_id)
        if begin.start:
            raise NotFoundError(
                f"the stream goes on at byte {begin.start}, and as much was not received"
            ).at(store=self._store.device_name)
        return None

    def _has_base(self, info: BlobInfo) -> bool:
        """Tell whether what the blob reads has not changed since its receipt began."""
        if self._begin.base is None or info.parent is None:
            return True
        with self._store.open_blob(info.parent) as parent:
            return identity_in(parent.xattrs) is not None

    def _made(self) -> Blob:
        """Make a thin blob, or a clone of the base, that no name leads to."""
        begin, store = self._begin, self._store
        xattrs = {RECEIVE_STATE: self._state()}
        hidden = hidden_name(store, "receiving")
        if begin.base is None:
            if isinstance(store, VolumeStore):
                assert hidden is not None
                return store.create_volume(hidden, thin=True, xattrs=xattrs)
            return store.create_blob(thin=True, xattrs=xattrs)
        try:
            base = find_snapshot(store, begin.base)
        except NotFoundError as error:
            raise NotFoundError(
                f"the stream is a difference to snapshot {begin.base}, which is not here"
            ).at(store=store.device_name) from error
        with store.open_blob(base) as parent:
            return parent.clone(hidden, xattrs=xattrs)

    def _state(self) -> bytes:
        begin = self._begin
        if begin.identity is None:
            return INCOMPLETE
        return msgspec.json.encode(ReceiveState(begin.identity, begin.base, self._durable))

    def apply(self, record: Data | Zeroes) -> int:
        """Write what a record holds, unless it came before; return how many bytes it stands for."""
        if isinstance(record, Zeroes):
            end, length = record.offset + record.length, 0
            if end > self._at:
                clear(self._blob, record.offset, end)
        else:
            length = memoryview(record.content).nbytes
            end = record.offset + length
            if end > self._at:
                self._blob.write(record.content, record.offset)
        self._at = max(self._at, end)
        if self._at - self._durable >= _CHECKPOINT_BYTES:
            self._checkpoint()
        return length

    def _checkpoint(self) -> None:
        self._blob.flush()
        self._durable = self._at
        self._blob.set_xattr(RECEIVE_STATE, self._state())

    def finish(self, name: str | None) -> Blob:
        """Make the blob a snapshot: one write of its root sets attributes, name and read-only."""
        begin = self._begin
        sent = {decode_name(key): value for key, value in begin.xattrs}
        xattrs: dict[str, bytes | None] = {
            key: value for key, value in sent.items() if key not in OF_ONE_STORE
        }
        if begin.identity is not None:
            xattrs[SNAPSHOT_ID] = encode_uuid(begin.identity)
        if begin.taken_at is not None:
            xattrs[SNAPSHOT_TIME] = str(begin.taken_at).encode()
        self._blob.set_attributes({**xattrs, RECEIVE_STATE: None}, name=name, read_only=True)
        return self._blob

    def keep(self) -> bool:
        """Keep what came for the next stream, if that can go on with it; return whether.

        Without an identity none can.
        """
        blob = self._blob
        is_useful = self._begin.identity is not None and self._at > 0
        with suppress(BlobstoreError):
            if is_useful and not blob.read_only:
                self._checkpoint()
        if is_useful:
            with suppress(BlobstoreError):
                blob.close()
        else:
            self.discard()
        return is_useful

    def discard(self) -> None:
        """Delete what came, unless another receipt of the same snapshot has completed it."""
        with suppress(BlobstoreError):
            is_snapshot = self._blob.read_only
            self._blob.close()
            if not is_snapshot:
                delete_any(self._store, self._blob.id)


def clear(blob: Blob, offset: int, end: int) -> None:
    """Let a range read as zeroes; where it does so already, nothing is allocated.

    Raises:
        NoSpaceError: No cluster is left.
    """
    at = blob.next_data(offset)
    while at is not None and at < end:
        stop = min(blob.next_hole(at), end)
        blob.write_zeroes(at, stop - at)
        at = blob.next_data(stop)


def unfinished_receipts(store: AnyStore) -> Iterator[tuple[BlobInfo, ReceiveState]]:
    """Yield the blobs that are being received, and how far they came.

    Raises:
        ClosedError: The store was closed.
    """
    for info in store.list_blobs():
        text = info.xattrs.get(RECEIVE_STATE) if info.error is None else None
        if text is None or info.read_only:
            continue
        with suppress(msgspec.MsgspecError):
            yield info, msgspec.json.decode(text, type=ReceiveState)


def resume_token(state: ReceiveState) -> str:
    """Return what `send` has to know to go on where a stream was cut."""
    return urlsafe_b64encode(msgspec.json.encode(state)).decode("ascii")


def parse_token(token: str) -> ReceiveState:
    """Return what a token says.

    Raises:
        InvalidArgumentError: It is none.
    """
    try:
        state = msgspec.json.decode(urlsafe_b64decode(token), type=ReceiveState)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidArgumentError(f"resume token: {error}") from error
    if state.offset < 0:
        raise InvalidArgumentError(f"resume token: offset {state.offset}")
    return state
