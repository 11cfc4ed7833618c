"""A volume store whose super blob is lost: its name and uuid, without which nothing loads it.

The type says that it is a volume store, and its volumes are whole. But the super blob has lost its
root, or its attributes. No other place holds them. So a check calls that an error, and a repair
that may decide makes a super blob again: with a new uuid, and with a new name where the old one is
lost.
"""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from blobstore.errors import BlobstoreError
from blobstore.format.chain import ChainContent
from blobstore.format.descriptors import encode_name
from blobstore.format.geometry import blob_id_of
from blobstore.format.super_block import NO_BLOB
from blobstore.fsck.examine import Examination, examine
from blobstore.metadata.blob_reader import read_content
from blobstore.metadata.load_store import load
from blobstore.metadata.page_reader import PageReader
from blobstore.metadata.store_state import DeviceTraits, StoreState
from blobstore.store.delete import delete_blob
from blobstore.store.lifecycle import set_super_blob, unload
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import BlobId
from blobstore.volumes.identity import (
    NAME,
    UUID_NAME,
    VOLUME_STORE_TYPE,
    check_name,
    decode_store_identity,
    decode_uuid,
    decode_volume_name,
)
from blobstore.volumes.load_volumes import create_super_blob

_SUPER_BLOB: Final = 8


async def check_super_blob(seen: Examination) -> None:
    """Add an error if the store is a volume store without a super blob that names it."""
    problem = await _problem_of(seen)
    if problem is not None:
        seen.findings.add(
            _SUPER_BLOB,
            f"{problem}, so nothing loads the volumes; `check STORE --repair all` makes a "
            "super blob with a new uuid, and leaves the volumes alone",
        )


async def restore_super_blob(traits: DeviceTraits, uuid: UUID) -> tuple[str, ...]:
    """Make a super blob with this uuid if the store is a volume store without one.

    The store stays as it is if something else is wrong with it, or no metadata page is free: then
    the next check says so.
    """
    seen = await examine(traits)
    problem = await _problem_of(seen) or await _problem_of_salvaged(seen)
    if problem is None or seen.super_block is None:
        return ()
    candidates = await super_blob_candidates(seen, only_sure=True)
    old_id = seen.super_block.super_blob
    old = await _content_of(seen, old_id)
    xattrs = {} if old is None else old.xattrs
    try:
        store = await load(traits)
        if not store.is_writable:
            return ()
        if len(candidates) == 1:
            made, super_blob = "as super blobs are", candidates[0]
        else:
            known = decode_uuid(xattrs.get(UUID_NAME)) or uuid
            name = _name_in(xattrs) or f"restored-{str(known)[:8]}"
            made = f"made with name {name} and uuid {known}"
            if SALVAGED in xattrs and _is_empty(old):
                await delete_blob(store, old_id)
            super_blob = await _create(store, name, known)
        await set_super_blob(store, super_blob)
        await unload(store)
    except BlobstoreError:
        return ()
    return (f"{problem}: blob {super_blob:#x}, {made}, is the super blob now",)


async def _create(store: StoreState, name: str, uuid: UUID) -> BlobId:
    async with store.mutex:
        return await create_super_blob(store, name=name, uuid=uuid)


async def _problem_of(seen: Examination) -> str | None:
    """Say what is wrong with the super blob of a volume store in which nothing else is wrong."""
    block = seen.super_block
    if block is None or seen.view is None or block.bstype != VOLUME_STORE_TYPE:
        return None
    if seen.findings.error_count or seen.view.newer:
        return None
    if block.super_blob == NO_BLOB:
        return "volume store: no super blob is set"
    content = await _content_of(seen, block.super_blob)
    if content is None:
        return "volume store: its super blob is lost"
    try:
        decode_store_identity(
            content.xattrs, place=f"super blob {block.super_blob:#x} of the volume store"
        )
    except BlobstoreError as error:
        return error.message
    return None


async def _content_of(seen: Examination, blob_id: BlobId) -> ChainContent | None:
    if seen.view is None:
        return None
    fetch = PageReader(seen.view.geometry, seen.view.torn.restored).fetch
    try:
        return await read_content(seen.view.geometry, blob_id, fetch)
    except BlobstoreError:
        return None


async def _problem_of_salvaged(seen: Examination) -> str | None:
    """Say that the super blob of a volume store is read-only, and so is the name of the store."""
    block = seen.super_block
    if block is None or block.bstype != VOLUME_STORE_TYPE or seen.findings.error_count:
        return None
    content = await _content_of(seen, block.super_blob)
    if content is None or SALVAGED not in content.xattrs or not _is_empty(content):
        return None
    return f"super blob {block.super_blob:#x} of the volume store: salvaged, so read-only"


def _name_in(xattrs: Mapping[str, bytes]) -> str | None:
    """Return the name that the store had, if the attributes still say it."""
    name = decode_volume_name(xattrs)
    try:
        check_name(name)
    except BlobstoreError:
        return None
    return name


def _is_empty(content: ChainContent | None) -> bool:
    return content is None or not (content.table_cluster_count or content.runs)


async def super_blob_candidates(seen: Examination, *, only_sure: bool = False) -> list[BlobId]:
    """Return the blobs that can be the super blob of a volume store, none if it is no such store.

    A blob that a repair has salvaged may have lost its name and uuid. With `only_sure` a volume
    without clusters is none, even if no blob is made as a super blob.
    """
    if seen.view is None or seen.findings.error_count:
        return []
    geometry = seen.view.geometry
    fetch = PageReader(geometry, seen.view.torn.restored).fetch
    empty: list[BlobId] = []
    made_as_one: list[BlobId] = []
    for blob_id in map(blob_id_of, seen.view.roots):
        try:
            content = await read_content(geometry, blob_id, fetch)
        except BlobstoreError:
            return []
        if SALVAGED in content.xattrs:
            continue
        if not (content.xattrs.get(NAME) and decode_uuid(content.xattrs.get(UUID_NAME))):
            return []
        if not (content.table_cluster_count or content.runs):
            empty.append(blob_id)
            made_as_one += [blob_id] if _is_made_as_super_blob(content.xattrs) else []
    return made_as_one or ([] if only_sure else empty)


def _is_made_as_super_blob(xattrs: Mapping[str, bytes]) -> bool:
    """Tell whether the attributes have the order and the form of a super blob's (`store_xattrs`).

    A volume's have the other order, and its first name is padded.
    """
    names = [*xattrs]
    is_padded = xattrs[NAME] != encode_name(decode_volume_name(xattrs)) + b"\0"
    return names.index(UUID_NAME) < names.index(NAME) and not is_padded
