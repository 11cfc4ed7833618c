"""What the root of a blob says of other blobs: its parent, and an unfinished snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from blobstore.errors import CorruptError
from blobstore.format.chain import ChainContent
from blobstore.format.descriptors import (
    EXTERNAL_SNAPSHOT,
    FLAGS,
    HAS_INTERNAL_XATTRS,
    HEADER,
    INTERNAL_XATTR,
    decode_flags,
    split_descriptors,
    split_xattr,
)
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, TAIL, body_of, has_right_crc
from blobstore.format.root import TAIL_OFFSET
from blobstore.metadata.blob_state import SNAP, SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL
from blobstore.units import BlobId

_SOME_ID: Final = bytes(8)


@dataclass(slots=True)
class Relations:
    """What blobs say of others: parents, unfinished snapshots; of some, the root does not tell."""

    parents: dict[BlobId, BlobId] = field(default_factory=dict)
    marked: set[BlobId] = field(default_factory=set)
    unclear: list[BlobId] = field(default_factory=list)


def add_relations(found: Relations, page: memoryview, blob_id: BlobId) -> None:
    """Take the relations of the blob whose root is said to be this page."""
    root_id, sequence, _reserved = HEAD.unpack_from(page)
    if (root_id, sequence) != (blob_id, 0) or not has_right_crc(page):
        found.unclear.append(blob_id)
    elif _may_have_some(page):
        add_sound_relations(found, page, blob_id)


def _may_have_some(page: memoryview) -> bool:
    """Look for the flag that announces internal attributes, in either layout of a root."""
    start = HEAD.size if page[HEAD.size] else TAIL_OFFSET
    has_flags = page[start] == FLAGS
    return not has_flags or bool(page[start + HEADER.size] & HAS_INTERNAL_XATTRS)


def add_sound_relations(found: Relations, page: memoryview, blob_id: BlobId) -> None:
    """Take the relations from a root that is sound, if it has no further page."""
    (following, _crc) = TAIL.unpack_from(page, PAGE_SIZE - TAIL.size)
    attributes = _internal_attributes(page) if following == NO_PAGE else None
    if attributes is None or len(attributes.get(SNAP, _SOME_ID)) != len(_SOME_ID):
        found.unclear.append(blob_id)
        return
    _add(found, attributes, blob_id)


def _add(found: Relations, attributes: Mapping[str, bytes], blob_id: BlobId) -> None:
    if SNAP in attributes:
        found.parents[blob_id] = BlobId(int.from_bytes(attributes[SNAP], "little"))
    if SNAPSHOT_IN_PROGRESS in attributes or SNAPSHOT_REMOVAL in attributes:
        found.marked.add(blob_id)


def add_relations_of_chain(found: Relations, content: ChainContent, blob_id: BlobId) -> None:
    """Take the relations from a whole chain; a parent's id of another size names none."""
    attributes = dict(content.internal_xattrs)
    is_external = content.flags is not None and bool(content.flags.invalid & EXTERNAL_SNAPSHOT)
    if is_external or len(attributes.get(SNAP, _SOME_ID)) != len(_SOME_ID):
        attributes.pop(SNAP, None)
    _add(found, attributes, blob_id)


def _internal_attributes(page: memoryview) -> dict[str, bytes] | None:
    """Return them by name, or None where they cannot be told, or two name a parent.

    A `SNAP` that is stale is left out: the flag of an external snapshot decides.
    """
    attributes: dict[str, bytes] = {}
    is_external = False
    try:
        for kind, view in split_descriptors(body_of(page), place="root"):
            if kind == FLAGS:
                is_external = bool(decode_flags(view, place="root").invalid & EXTERNAL_SNAPSHOT)
            elif kind == INTERNAL_XATTR:
                name, value = split_xattr(view, place="root")
                if name == SNAP and name in attributes:
                    return None
                attributes[name] = value
    except CorruptError:
        return None
    if is_external:
        attributes.pop(SNAP, None)
    return attributes
