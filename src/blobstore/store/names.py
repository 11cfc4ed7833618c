"""Finding blobs by name: the name of a blob is its attribute `name`.

A plain store keeps no index of names, and several blobs may have the same one. So a
search looks at every blob: the roots are read in large pieces, and the chain of a blob
is decoded only where its root holds the bytes of the name, or goes on in other pages.
What is in memory counts before what is on the device: the attributes of an open blob,
and what recovery decided.

Volume stores pad names with NUL bytes; these do not count.
"""

import errno
from collections.abc import Mapping, Sequence
from typing import Final

from blobstore.errors import CorruptError, InvalidArgumentError, NotFoundError
from blobstore.format.descriptors import decode_name, encode_name
from blobstore.format.geometry import blob_id_of
from blobstore.format.page import NO_PAGE, PAGE_SIZE, TAIL
from blobstore.metadata.blob_reader import read_content
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.page_reader import Fetch, PageReader
from blobstore.metadata.relation_scan import root_windows
from blobstore.metadata.store_state import StoreState
from blobstore.operations import ReadInto
from blobstore.store.open_blobs import open_blob_locked
from blobstore.units import BlobId, PageIndex

NAME: Final = "name"

_LISTED_MAX: Final = 16
_PADDING: Final = b"\0"


async def find_blob(store: StoreState, name: str) -> BlobId:
    """Return the id of the one blob of this name.

    Raises:
        NotFoundError: No blob has the name (ENOENT).
        InvalidArgumentError: Several blobs have it (ENOTUNIQ); the message lists their ids.
    """
    async with store.mutex:
        return await find_blob_locked(store, name)


async def open_named_blob(store: StoreState, name: str) -> BlobState:
    """Find a blob and open it in one step: no other blob can take its id in between.

    Raises:
        NotFoundError, InvalidArgumentError: As `find_blob`.
        CorruptError: It cannot be read.
    """
    async with store.mutex:
        return await open_blob_locked(store, await find_blob_locked(store, name))


async def find_blob_locked(store: StoreState, name: str) -> BlobId:
    """Return the id of the one blob of this name, as `find_blob`; the caller holds the mutex."""
    found = await blobs_named_locked(store, name)
    if not found:
        raise NotFoundError(f"no blob is named {name!r}")
    if len(found) > 1:
        ids = ", ".join(f"{blob_id:#x}" for blob_id in found[:_LISTED_MAX])
        rest = ", ..." if len(found) > _LISTED_MAX else ""
        raise InvalidArgumentError(
            f"{len(found)} blobs are named {name!r}: {ids}{rest}", errno=errno.ENOTUNIQ
        )
    return found[0]


async def blobs_named_locked(store: StoreState, name: str) -> list[BlobId]:
    """Return the ids of all blobs of this name, ascending; the caller holds the mutex.

    A blob whose metadata cannot be read has no name.
    """
    store.check_open()
    wanted = encode_name(name)
    fetch = PageReader(store.geometry, store.recovery_plan.restored).fetch
    found: list[BlobId] = []
    for blob_id in await _candidates(store, wanted):
        if await _stored_name(store, blob_id, fetch) == wanted:
            found.append(blob_id)
    return found


async def _candidates(store: StoreState, wanted: bytes) -> list[BlobId]:
    """Return the blobs that may have the name: the roots show of most that they do not."""
    size = store.geometry.page_size
    found: list[BlobId] = []
    for first, count in root_windows(store.geometry, store.used_ids):
        window = bytearray(count * size)
        await ReadInto(store.geometry.page_offset(PageIndex(first)), [memoryview(window)])
        for root in store.used_ids.search(True, first, first + count):
            blob_id, at = blob_id_of(PageIndex(root)), (root - first) * size
            (following, _crc) = TAIL.unpack_from(window, at + PAGE_SIZE - TAIL.size)
            if (
                following != NO_PAGE
                or window.find(wanted, at, at + PAGE_SIZE) >= 0
                or root in store.recovery_plan.restored
                or _in_memory(store, blob_id) is not None
            ):
                found.append(blob_id)
    return found


async def stored_xattrs_locked(
    store: StoreState, blob_ids: Sequence[BlobId]
) -> list[tuple[BlobId, Mapping[str, bytes]]]:
    """Return the attributes of blobs without opening them; the caller holds the mutex.

    A blob whose metadata cannot be read is left out.
    """
    fetch = PageReader(store.geometry, store.recovery_plan.restored).fetch
    found = [(blob_id, await stored_xattrs(store, blob_id, fetch)) for blob_id in blob_ids]
    return [(blob_id, xattrs) for blob_id, xattrs in found if xattrs is not None]


async def stored_xattrs(
    store: StoreState, blob_id: BlobId, fetch: Fetch
) -> Mapping[str, bytes] | None:
    """Return the attributes of a blob without opening it, or None if they cannot be read."""
    blob = _in_memory(store, blob_id)
    if blob is not None:
        return blob.xattrs
    try:
        return (await read_content(store.geometry, blob_id, fetch)).xattrs
    except (CorruptError, NotFoundError):
        return None


async def _stored_name(store: StoreState, blob_id: BlobId, fetch: Fetch) -> bytes | None:
    """Return the name of a blob without padding, or None if it has none that can be read."""
    xattrs = await stored_xattrs(store, blob_id, fetch)
    return xattrs[NAME].rstrip(_PADDING) if xattrs and NAME in xattrs else None


def _in_memory(store: StoreState, blob_id: BlobId) -> BlobState | None:
    return store.open_blobs.get(blob_id) or store.recovery_plan.changed.get(blob_id)


def name_in(xattrs: Mapping[str, bytes]) -> str | None:
    """Return a blob's name as text, without padding; None if it has none."""
    value = xattrs.get(NAME)
    return None if value is None else decode_name(value.rstrip(_PADDING))
