"""What loading knows of a store: masks, relations, and what must change on the device.

Recovery finds it out page by page; of a clean store the masks say most of it.
"""

import errno
from dataclasses import dataclass, field

from bitarray import bitarray

from blobstore.alloc.extent_map import take_all
from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.geometry import root_of
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import RecoveryPlan
from blobstore.units import BlobId


@dataclass(slots=True)
class Recovered:
    """The masks as they follow from the chains, and all that loading must know beside them.

    `is_contested` tells that two blobs named the same place. `unrelated` are blobs of a
    clean store that cannot be read, so their parents are not known, and why.
    """

    used_pages: bitarray
    used_clusters: bitarray
    used_ids: bitarray
    plan: RecoveryPlan = field(default_factory=RecoveryPlan)
    parents: dict[BlobId, BlobId] = field(default_factory=dict)
    marked: set[BlobId] = field(default_factory=set)
    errors: dict[BlobId, BlobstoreError] = field(default_factory=dict)
    unrelated: dict[BlobId, BlobstoreError] = field(default_factory=dict)
    is_contested: bool = False


def quarantine(found: Recovered, blob_id: BlobId, error: BlobstoreError) -> None:
    """Keep the id and the root page of a blob that cannot be taken; what else it owns is unknown.

    The error is kept without what it would keep alive: every page of the blob.
    """
    root = root_of(blob_id)
    found.is_contested |= bool(found.used_pages[root])
    found.used_pages[root] = True
    found.used_ids[root] = True
    found.errors[blob_id] = error.without_traceback()


def take_pages(found: Recovered, state: BlobState) -> None:
    """Mark the blob's metadata pages used.

    Raises:
        CorruptError: One of them belongs to another blob too.
    """
    pages = [state.root, *state.metadata_pages]
    if len(set(pages)) != len(pages) or found.used_pages[pages].any():
        found.is_contested = True
        raise CorruptError(
            f"blob {state.blob_id:#x}: a metadata page belongs to two places", errno=errno.EINVAL
        )
    found.used_pages[pages] = True


def take_clusters(found: Recovered, state: BlobState) -> None:
    """Mark the blob's clusters used.

    Raises:
        CorruptError: One of them belongs to another blob too.
    """
    if not take_all(found.used_clusters, state.clusters):
        found.is_contested = True
        raise CorruptError(
            f"blob {state.blob_id:#x}: owns a cluster that another place owns", errno=errno.EINVAL
        )
