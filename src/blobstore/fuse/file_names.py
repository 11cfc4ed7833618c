"""Which file shows which blob.

A blob's file has the blob's name. Some names cannot be a file's, and in a store of blobs several
blobs may have one name: those are shown by their ids, `0x...`.
"""

import os
import re
from collections import Counter
from typing import Final

from blobstore.api.blobstore import Blobstore
from blobstore.api.volumes import VolumeStore
from blobstore.units import BlobId

_NAME_MAX: Final = 255
_IS_ID: Final = re.compile(r"0[xX][0-9a-fA-F]+")


def file_names(store: Blobstore | VolumeStore) -> dict[str, BlobId]:
    """Return the blob of each file, for all blobs or volumes of a store."""
    if isinstance(store, VolumeStore):
        named: list[tuple[BlobId, str | None]] = [(info.id, info.name) for info in store]
    else:
        named = [(info.blob_id, info.name) for info in store.list_blobs()]
    count = Counter(name for _blob_id, name in named)
    return {
        name
        if name is not None and count[name] == 1 and _is_file_name(name)
        else f"{blob_id:#x}": blob_id
        for blob_id, name in named
    }


def _is_file_name(name: str) -> bool:
    if name in ("", ".", "..") or "/" in name or "\0" in name or _IS_ID.fullmatch(name):
        return False
    return len(os.fsencode(name)) <= _NAME_MAX
