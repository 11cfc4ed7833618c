"""Copying blobs with their snapshots and clones, so that what they share stays shared.

Each blob is copied after its parent, as a clone of the parent's copy, and only the clusters that
it owns itself are read and written. A copy carries `copy_state` until it is complete. The copy of
a blob that is not complete carries the blob's mark for ever: it is a part of the same thing.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
from blobstore.backup.any_store import AnyStore, check_new_name, delete_any
from blobstore.backup.receiving import clear
from blobstore.backup.sending import OF_ONE_STORE, Progress
from blobstore.backup.snapshot_identity import (
    SNAPSHOT_TIME,
    identity_of,
)
from blobstore.backup.stream_format import DATA_MAX
from blobstore.backup.unfinished import COPY_STATE, INCOMPLETE, MARKS, hidden_name
from blobstore.errors import BlobstoreError
from blobstore.store.blobs import ClearMethod
from blobstore.store.describe import BlobInfo
from blobstore.store.relations import SNAPSHOT_ID
from blobstore.units import BlobId
from blobstore.volumes.identity import check_name, encode_uuid


def whole_store(store: AnyStore) -> list[BlobInfo]:
    """Return all blobs of a store, or volumes of a volume store, parents first.

    Raises:
        BlobstoreError: One of them does not open.
    """
    infos = {info.blob_id: info for info in _all(store)}
    return _parents_first(infos, [blob_id for blob_id in infos if infos[blob_id].parent is None])


def tree_of(store: AnyStore, blob_id: BlobId) -> list[BlobInfo]:
    """Return all blobs that share an ancestor with this one, parents first.

    Raises:
        BlobstoreError: One of them does not open.
    """
    infos = {info.blob_id: info for info in _all(store)}
    root = blob_id
    while (parent := infos[root].parent) is not None:
        root = parent
    return _parents_first(infos, [root])


def _all(store: AnyStore) -> Iterable[BlobInfo]:
    volumes = {each.id for each in store} if isinstance(store, VolumeStore) else None
    for info in store.list_blobs():
        if volumes is None or info.blob_id in volumes:
            if info.error is not None:
                raise info.error
            yield info


def _parents_first(infos: dict[BlobId, BlobInfo], roots: Sequence[BlobId]) -> list[BlobInfo]:
    ordered, waiting = [], list(reversed(roots))
    while waiting:
        info = infos[waiting.pop()]
        ordered.append(info)
        waiting += reversed(info.clones)
    return ordered


def copy_blobs(
    source: AnyStore,
    target: AnyStore,
    infos: Sequence[BlobInfo],
    *,
    prefix: str = "",
    progress: Progress | None = None,
) -> dict[BlobId, BlobId]:
    """Copy blobs, parents first, to another store or within one; return their new ids.

    Names get a `prefix`. Snapshots keep their identities, volumes get uuids of their own. If it
    fails, what it made is deleted again.

    Durability: on return.

    Raises:
        ExistsError: A name is taken; nothing was copied.
        InvalidArgumentError: No volume can have one of the names; nothing was copied.
        NoSpaceError: No cluster or metadata page is left.
        BlobstoreError: As reading, creating and writing blobs.
    """
    _check_names(target, [_name_of(info, target, prefix) for info in infos])
    made: dict[BlobId, BlobId] = {}
    try:
        for info in infos:
            name = _name_of(info, target, prefix)
            with source.open_blob(info.blob_id) as old:
                copy = _make(target, info, None if info.parent is None else made[info.parent])
                made[info.blob_id] = copy.id
                with copy:
                    copy.resize(info.size)  # a clone is made as large as its parent
                    _fill(copy, old, progress)
                    _complete(copy, info, name)
    except BaseException:
        for blob_id in reversed(made.values()):
            with suppress(BlobstoreError):
                delete_any(target, blob_id)
        raise
    return made


def _name_of(info: BlobInfo, target: AnyStore, prefix: str) -> str | None:
    """Return what the copy is called: every volume has a name, which is no number like an id."""
    if info.name:
        return prefix + info.name
    return f"{prefix}blob-{info.blob_id:#x}" if isinstance(target, VolumeStore) else None


def _check_names(target: AnyStore, names: list[str | None]) -> None:
    for name in names if isinstance(target, VolumeStore) else ():
        check_name(name or "")
    taken = {info.name for info in target.list_blobs()} - {None}
    found = next((name for name in names if name in taken), None)
    if found is not None:
        check_new_name(target, found)


def _make(target: AnyStore, info: BlobInfo, parent: BlobId | None) -> Blob:
    """Make an empty copy, below the copy of the parent; it gets its name when it is complete."""
    mark = {COPY_STATE: INCOMPLETE}
    hidden = hidden_name(target, "copying")
    if parent is not None:
        with target.open_blob(parent) as snapshot:
            return snapshot.clone(hidden, xattrs=mark)
    if isinstance(target, Blobstore):
        return target.create_blob(
            info.size,
            thin=info.thin,
            extent_table=info.extent_table,
            clear_method=ClearMethod(info.clear_method),
            xattrs=mark,
            external_snapshot=info.external_snapshot,
        )
    assert hidden is not None
    return target.create_volume(
        hidden,
        info.size,
        thin=info.thin,
        clear_method=ClearMethod(info.clear_method),
        xattrs=mark,
        external_snapshot=info.external_snapshot,
    )


def _fill(copy: Blob, old: Blob, progress: Progress | None) -> None:
    """Copy the clusters that a blob owns itself; what rounding adds shows nothing of the parent."""
    clear(copy, old.size, copy.size)
    buffer = memoryview(bytearray(DATA_MAX))
    for offset, length, is_allocated in old.extents():
        if not is_allocated:
            continue
        for at in range(offset, offset + length, DATA_MAX):
            part = buffer[: min(DATA_MAX, offset + length - at)]
            old.read_into(part, at)
            copy.write(part, at)
            if progress is not None:
                progress(len(part))


def _complete(copy: Blob, info: BlobInfo, name: str | None) -> None:
    """Give a copy its name and attributes; with this write it is what it is a copy of."""
    xattrs: dict[str, bytes | None] = {COPY_STATE: None}
    for key, value in info.xattrs.items():
        if key not in OF_ONE_STORE or key in (SNAPSHOT_TIME, *MARKS):
            xattrs[key] = value
    identity = identity_of(info) if info.data_read_only else None
    if identity is not None:
        xattrs[SNAPSHOT_ID] = encode_uuid(identity)
    copy.set_attributes(xattrs, name=name, read_only=info.data_read_only)
