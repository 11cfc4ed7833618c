"""What names a snapshot for ever, in whatever store its copies are.

An incremental stream must be applied to the very snapshot that it was made against. Ids, names
and maps differ between stores, and ids are used again. So a snapshot needs a name of its own.
A volume's is its uuid. In a store of blobs the attribute `snapshot_id` holds a uuid. Whoever
takes a snapshot for backups writes it, and whoever receives one copies it, into volumes too.
Snapshots do not change, so two with one identity have the same content.

`snapshot_time` says when a snapshot was taken. SPDK ignores both attributes. A `snapshot_id` that
is no uuid says that a new parent or a repair has changed the content: then nothing names the
snapshot, nor the volume.
"""

import time
import uuid as uuids
from collections.abc import Iterator, Mapping
from typing import Final
from uuid import UUID

from blobstore.api.blob import Blob
from blobstore.api.volumes import Volume
from blobstore.backup.any_store import AnyStore
from blobstore.backup.unfinished import MARKS, unfinished_by
from blobstore.errors import InvalidArgumentError, NotFoundError
from blobstore.store.describe import BlobInfo
from blobstore.store.relations import SNAPSHOT_ID
from blobstore.units import BlobId
from blobstore.volumes.identity import UUID_NAME, decode_uuid, encode_uuid

SNAPSHOT_TIME: Final = "snapshot_time"
IDENTIFYING: Final = (SNAPSHOT_ID, UUID_NAME, *MARKS)
"""The attributes that say which snapshot it is, and whether it is complete."""

_TIME_DIGITS_MAX: Final = 11  # up to the year 5138


def identity_of(info: BlobInfo) -> UUID | None:
    """Return what names a snapshot for ever, or None."""
    return identity_in(info.xattrs)


def identity_in(xattrs: Mapping[str, bytes]) -> UUID | None:
    """Return what names the snapshot with these attributes for ever, or None."""
    return decode_uuid(xattrs.get(SNAPSHOT_ID if SNAPSHOT_ID in xattrs else UUID_NAME))


def taken_at(xattrs: Mapping[str, bytes]) -> int | None:
    """Return when a snapshot was taken, in seconds since 1970 (UTC), or None."""
    text = xattrs.get(SNAPSHOT_TIME, b"")
    return int(text) if text.isdigit() and len(text) <= _TIME_DIGITS_MAX else None


def take_snapshot(blob: Blob, name: str | None = None, *, now: float | None = None) -> Blob:
    """Make a snapshot that has an identity and a time, and return it, open.

    `now` is the time in seconds since 1970 (UTC), or else the system's.

    Durability: on return.

    Raises:
        As `Blob.snapshot` and `Volume.snapshot`.
    """
    seconds = int(time.time() if now is None else now)
    xattrs = {SNAPSHOT_TIME: str(seconds).encode()}
    if not isinstance(blob, Volume):
        xattrs[SNAPSHOT_ID] = encode_uuid(uuids.uuid4())
    return blob.snapshot(name, xattrs=xattrs)


def check_read_only(xattrs: Mapping[str, bytes], *, is_read_only: bool) -> None:
    """Refuse what can still change, or is not complete.

    Raises:
        InvalidArgumentError: It is a writable blob, or an unfinished one.
    """
    if not is_read_only:
        raise InvalidArgumentError("not read-only: take a snapshot, and send that")
    command = unfinished_by(xattrs)
    if command is not None:
        raise InvalidArgumentError(f"not complete: its {command} was interrupted")


def snapshots_in(store: AnyStore) -> Iterator[BlobInfo]:
    """Yield what can be the base of a stream."""
    for info in store.list_blobs():
        if info.error is None and info.data_read_only and not unfinished_by(info.xattrs):
            yield info


def find_snapshot(store: AnyStore, identity: UUID) -> BlobId:
    """Return the snapshot of an identity; of several, which are copies, the first.

    Raises:
        NotFoundError: There is none.
    """
    for info in snapshots_in(store):
        if identity_of(info) == identity:
            return info.blob_id
    raise NotFoundError(f"no snapshot has the identity {identity}").at(store=store.device_name)
