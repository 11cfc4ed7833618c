"""Attributes of an open blob: xattrs, and read-only for good."""

from collections.abc import Mapping
from typing import Final

from blobstore.errors import InvalidArgumentError, NoSpaceError, NotFoundError, ReadOnlyError
from blobstore.format.descriptors import READ_ONLY, Flags, Xattr, encode_name
from blobstore.format.page import BODY_SIZE
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.host_space import with_space
from blobstore.metadata.persist import persist
from blobstore.metadata.recovery_plan import begin_change
from blobstore.metadata.space import reserve
from blobstore.metadata.store_state import ENOMEM, StoreState

_NAME_MAX: Final = 0xFFFF


def check_metadata_writable(store: StoreState, blob: BlobState) -> None:
    """Raise `ReadOnlyError` when the blob's metadata may not be changed."""
    store.check_writable()
    if blob.md_read_only:
        raise ReadOnlyError(f"blob {blob.blob_id:#x}: its metadata is read-only")


def check_xattr(name: str, value: bytes) -> None:
    """Refuse an attribute that no page can hold.

    Raises:
        InvalidArgumentError: An empty name, or one with a NUL.
        NoSpaceError: It does not fit into one page (ENOMEM).
    """
    if not name or "\0" in name:
        raise InvalidArgumentError(f"xattr name {name!r}: expected some text without NUL")
    size = Xattr(name, value).encoded_size if len(encode_name(name)) <= _NAME_MAX else _NAME_MAX
    if size > BODY_SIZE:
        raise NoSpaceError(
            f"xattr {name[:64]!r}: {size} bytes on disk, expected at most {BODY_SIZE}",
            errno=ENOMEM,
        )


async def set_xattr(store: StoreState, blob: BlobState, name: str, value: bytes) -> None:
    """Set an attribute in memory; a new value keeps the old one's place.

    Durability: with the blob's next flush.

    Raises:
        ReadOnlyError: The blob's metadata is read-only.
        NoSpaceError: No metadata page is left to write it to (ENOMEM).
    """
    async with store.mutex:
        await set_xattr_locked(store, blob, name, value)


async def set_xattr_locked(store: StoreState, blob: BlobState, name: str, value: bytes) -> None:
    """Set an attribute as `set_xattr` does; the caller holds the mutex."""
    check_metadata_writable(store, blob)
    await overwrite_xattr_locked(store, blob, name, value)


async def overwrite_xattr_locked(
    store: StoreState, blob: BlobState, name: str, value: bytes
) -> None:
    """Set an attribute, also of a blob that is read-only for good; the caller holds the mutex.

    Only a layer whose own attribute this is may do so: a snapshot's content stays.
    """
    store.check_writable()
    check_xattr(name, value)
    await with_space(store, lambda: _set_xattr(store, blob, name, value))


def _set_xattr(store: StoreState, blob: BlobState, name: str, value: bytes) -> None:
    before = blob.xattrs.get(name)
    blob.change_xattr(name, bytes(value), store.layout)
    try:
        reserve(store, blob, is_asked=False)
    except NoSpaceError:
        blob.change_xattr(name, before, store.layout)
        raise
    blob.is_root_dirty = True


async def remove_xattr(store: StoreState, blob: BlobState, name: str) -> None:
    """Remove an attribute in memory.

    Durability: with the blob's next flush.

    Raises:
        NotFoundError: There is no such attribute.
        NoSpaceError: No metadata page is left to write the others to (ENOMEM).
    """
    async with store.mutex:
        await remove_xattr_locked(store, blob, name)


async def remove_xattr_locked(store: StoreState, blob: BlobState, name: str) -> None:
    """Remove an attribute as `remove_xattr` does; the caller holds the mutex."""
    check_metadata_writable(store, blob)
    get_xattr(blob, name)
    await with_space(store, lambda: _remove_xattr(store, blob, name))


def _remove_xattr(store: StoreState, blob: BlobState, name: str) -> None:
    if blob.is_root_dirty and store.reservations.holds(blob.blob_id):
        blob.change_xattr(name, None, store.layout)  # what is promised is enough for less
        return
    before = dict(blob.xattrs.items())
    blob.change_xattr(name, None, store.layout)
    try:
        reserve(store, blob, is_asked=False)
    except NoSpaceError:
        blob.put_back_xattrs(before)
        raise
    blob.is_root_dirty = True


def get_xattr(blob: BlobState, name: str) -> bytes:
    """Return an attribute's value.

    Raises:
        NotFoundError: There is no such attribute.
    """
    try:
        return blob.xattrs[name]
    except KeyError:
        raise NotFoundError(f"blob {blob.blob_id:#x}: no xattr {name!r}") from None


async def set_read_only(store: StoreState, blob: BlobState) -> None:
    """Make the blob read-only; it takes effect when it is durable.

    Durability: with the blob's next flush.

    Raises:
        NoSpaceError: No metadata page is left to write it to (ENOMEM).
    """
    async with store.mutex:
        store.check_writable()
        await with_space(store, lambda: _set_read_only(store, blob))


def _set_read_only(store: StoreState, blob: BlobState) -> None:
    if blob.flags.data_ro & READ_ONLY:
        return
    reserve(store, blob, is_asked=False)
    blob.flags = Flags(blob.flags.invalid, blob.flags.data_ro | READ_ONLY, blob.flags.md_ro)
    blob.touch_attributes()


async def set_attributes(
    store: StoreState, blob: BlobState, changes: Mapping[str, bytes | None], *, read_only: bool
) -> None:
    """Change attributes, and make the blob read-only if asked, by one write of its root.

    None removes an attribute, if it is there.

    Durability: on return, with all that was written to the blob before. A crash leaves all
    attributes as they were, or all changed.

    Raises:
        ReadOnlyError: The blob's metadata is read-only.
        NoSpaceError: No metadata page is left to write them to (ENOMEM); nothing changed.
    """
    async with store.mutex:
        await set_attributes_locked(store, blob, changes, read_only=read_only)


async def set_attributes_locked(
    store: StoreState, blob: BlobState, changes: Mapping[str, bytes | None], *, read_only: bool
) -> None:
    """Change attributes as `set_attributes` does; the caller holds the mutex.

    Every write of a root needs the mutex, so no other task makes a part of the changes durable.
    """
    check_metadata_writable(store, blob)
    for name, value in changes.items():
        if value is not None:
            check_xattr(name, value)
    await begin_change(store)
    await persist(store, blob)  # what is left then fits into one round
    await store.flush_device()  # a root that changes alone is written without a flush before it
    await with_space(store, lambda: _set_attributes(store, blob, changes, read_only=read_only))
    await persist(store, blob)


def _set_attributes(
    store: StoreState, blob: BlobState, changes: Mapping[str, bytes | None], *, read_only: bool
) -> None:
    before, flags = dict(blob.xattrs), blob.flags
    for name, value in changes.items():
        if value is not None or name in blob.xattrs:
            blob.change_xattr(name, value, store.layout)
    if read_only:
        blob.flags = Flags(flags.invalid, flags.data_ro | READ_ONLY, flags.md_ro)
    try:
        reserve(store, blob, is_asked=False)
    except NoSpaceError:
        blob.flags = flags
        blob.put_back_xattrs(before)
        raise
    blob.touch_attributes()
