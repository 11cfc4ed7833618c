"""Blobs that are not complete yet, and what an interrupted command left of them.

Whatever fills a new blob marks it with an attribute when it makes the blob, and removes the mark
by the one write that completes the blob. So a blob with a mark is never more than a part of
something, and an interruption of any kind leaves the mark. SPDK ignores these attributes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from blobstore.api.blobstore import Blobstore
from blobstore.backup.any_store import AnyStore, ancestors, delete_any
from blobstore.errors import BusyError
from blobstore.store.describe import BlobInfo
from blobstore.units import BlobId

RECEIVE_STATE: Final = "receive_state"
COPY_STATE: Final = "copy_state"
IMPORT_STATE: Final = "import_state"
MARKS: Final[Mapping[str, str]] = {
    RECEIVE_STATE: "receive",
    COPY_STATE: "copy",
    IMPORT_STATE: "import",
}
"""The attributes that mark an unfinished blob, and the commands that write them."""

INCOMPLETE: Final = b"-"
"""The value of a mark if the command cannot go on with the blob."""


def unfinished_by(xattrs: Mapping[str, bytes]) -> str | None:
    """Return the command that did not finish the blob with these attributes, or None."""
    return next((command for mark, command in MARKS.items() if mark in xattrs), None)


def unfinished_blobs(store: AnyStore) -> Iterator[tuple[BlobInfo, str]]:
    """Yield the blobs that are not complete, and the command that made each.

    Raises:
        ClosedError: The store was closed.
    """
    for info in store.list_blobs():
        command = unfinished_by(info.xattrs) if info.error is None else None
        if command is not None:
            yield info, command


def delete_unfinished(store: AnyStore) -> list[BlobId]:
    """Delete the blobs that are not complete, and what is left of their imports; return their ids.

    A blob that is open stays, because something is filling it.

    Durability: on return.

    Raises:
        DeviceError: The device failed.
    """
    deleted: list[BlobId] = []
    for info, command in list(unfinished_blobs(store)):
        if command == MARKS[IMPORT_STATE]:
            deleted += delete_import(store, info.blob_id)
        else:
            with suppress(BusyError):
                delete_any(store, info.blob_id)
                deleted.append(info.blob_id)
    return deleted


def delete_import(store: AnyStore, blob_id: BlobId) -> list[BlobId]:
    """Delete an unfinished import, and the snapshots below it; return their ids.

    The import of a chain has made these snapshots. One that another blob needs stays.

    Durability: on return.
    """
    deleted: list[BlobId] = []
    below = [each.blob_id for each in ancestors(store, blob_id)]
    with suppress(BusyError):
        for each in (blob_id, *below):
            delete_any(store, each)
            deleted.append(each)
    return deleted


def hidden_name(store: AnyStore, doing: str) -> str | None:
    """Return a name for an unfinished volume; a blob has none until it is complete."""
    if isinstance(store, Blobstore):
        return None
    return f".{doing}-{os.urandom(8).hex()}"
