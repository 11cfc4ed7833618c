"""What there is to draw: every cluster's owner, and the tree of snapshots and clones."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Final, TypeAlias

from bitarray import bitarray
from bitarray.util import intervals

from blobstore import BlobId, BlobInfo, StoreInfo
from blobstore.api.open_store import OpenStore
from blobstore.cli.output import unicode_text


class Use(Enum):
    """What a cluster is for, if not for a blob that can be opened."""

    METADATA = "metadata"
    FREE = "free"
    UNKNOWN = "unknown"


Owner: TypeAlias = BlobId | Use

_LEVELS_MAX: Final = 16

HOLE: Final = "hole"
EXTERNAL: Final = "external"
Source: TypeAlias = BlobId | str
"""From where a blob's cluster is read: a blob of the store, `EXTERNAL` or `HOLE`."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring clusters of one owner."""

    first: int
    count: int
    owner: Owner


@dataclass(frozen=True, slots=True)
class Branch:
    """A blob in the tree.

    `lasts` says for each level whether the blob there is its parent's last
    clone; of a very long chain only the levels next to the blob are kept.
    """

    blob_id: BlobId
    depth: int = 0
    lasts: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnershipMap:
    """A store at one moment; `runs` cover all its clusters, `tree` names every blob once."""

    name: str
    info: StoreInfo
    blobs: dict[BlobId, BlobInfo]
    unopened: list[BlobInfo]
    runs: list[Run]
    tree: list[Branch]

    def count_of(self, owner: Owner) -> int:
        """Return how many clusters an owner has."""
        return sum(run.count for run in self.runs if run.owner == owner)


def map_store(store: OpenStore) -> OwnershipMap:
    """Look at every blob once; those that cannot be opened own clusters that are not known."""
    blobs: dict[BlobId, BlobInfo] = {}
    unopened: list[BlobInfo] = []
    for found in store.list_blobs():
        if found.error is None:
            blobs[found.blob_id] = found
        else:
            unopened.append(found)
    info = store.info
    return OwnershipMap(
        name=os.path.basename(store.device_name),
        info=info,
        blobs=blobs,
        unopened=unopened,
        runs=_runs_of(store, info, blobs),
        tree=_tree_of(blobs),
    )


def _runs_of(store: OpenStore, info: StoreInfo, blobs: dict[BlobId, BlobInfo]) -> list[Run]:
    owned = [
        Run(first, count, blob.blob_id)
        for blob in blobs.values()
        for first, count in blob.extents
        if first != 0
    ]
    first_of_data = info.total_clusters - info.data_clusters
    rest = bitarray(info.total_clusters)  # what is in use, and no known blob's
    for first, count in store.used_clusters():
        rest[first : first + count] = True
    rest[:first_of_data] = False
    for run in owned:
        rest[run.first : run.first + run.count] = False
    unknown = [
        Run(start, end - start, Use.UNKNOWN) for value, start, end in intervals(rest) if value
    ]
    metadata = Run(0, first_of_data, Use.METADATA)
    runs = sorted([metadata, *owned, *unknown], key=lambda run: run.first)
    return list(_with_free(runs, info.total_clusters))


def _with_free(runs: Iterable[Run], end: int) -> Iterator[Run]:
    """Fill the gaps; where two claim the same, which no sound store has, the first keeps it."""
    at = 0
    for run in runs:
        if run.first > at:
            yield Run(at, run.first - at, Use.FREE)
            at = run.first
        left = run.first + run.count - at
        if left > 0:
            yield Run(at, left, run.owner)
            at += left
    if at < end:
        yield Run(at, end - at, Use.FREE)


def _tree_of(blobs: dict[BlobId, BlobInfo]) -> list[Branch]:
    """Order blobs such that clones follow their parents; chains may be long, so no recursion."""
    clones: dict[BlobId | None, list[BlobId]] = {}
    for blob in blobs.values():
        parent = blob.parent if blob.parent in blobs else None
        clones.setdefault(parent, []).append(blob.blob_id)
    tree: list[Branch] = []
    waiting = [Branch(blob_id) for blob_id in reversed(clones.get(None, []))]
    while waiting:
        branch = waiting.pop()
        tree.append(branch)
        below = clones.get(branch.blob_id, [])
        waiting += [
            Branch(blob_id, branch.depth + 1, (*branch.lasts, blob_id == below[-1])[-_LEVELS_MAX:])
            for blob_id in reversed(below)
        ]
    return tree


class Reader:
    """Says from where a blob's clusters are read."""

    def __init__(self, blobs: dict[BlobId, BlobInfo]) -> None:
        self._blobs = blobs
        self._known: dict[tuple[BlobId, int], Source] = {}
        self._ends = {
            blob_id: list(accumulate(count for _first, count in blob.extents))
            for blob_id, blob in blobs.items()
        }

    def source_of(self, blob_id: BlobId, index: int) -> Source:
        """Return the blob that holds the cluster that the blob shows at `index`.

        Answers are kept: a caller that asks for parents first never walks far.
        """
        source = self._known[blob_id, index] = self._look(blob_id, index)
        return source

    def _look(self, blob_id: BlobId, index: int) -> Source:
        at: BlobId | None = blob_id
        for _level in range(len(self._blobs)):
            if at is None or at not in self._blobs or index >= self._blobs[at].cluster_count:
                return HOLE
            if (at, index) in self._known:
                return self._known[at, index]
            blob = self._blobs[at]
            first, _count = blob.extents[bisect_right(self._ends[at], index)]
            if first != 0:
                return at
            if blob.external_snapshot is not None:
                return EXTERNAL
            at = blob.parent
        return HOLE


def map_fields(ownership: OwnershipMap) -> dict[str, object]:
    """Return the picture as JSON fields."""
    return {
        "total_clusters": ownership.info.total_clusters,
        "cluster_size": ownership.info.cluster_size,
        "runs": [
            {"first": run.first, "count": run.count, "owner": _owner_field(run.owner)}
            for run in ownership.runs
        ],
        "tree": [
            {
                "id": branch.blob_id,
                "depth": branch.depth,
                "name": _name_field(ownership.blobs[branch.blob_id]),
                "parent": ownership.blobs[branch.blob_id].parent,
            }
            for branch in ownership.tree
        ],
    }


def _owner_field(owner: Owner) -> int | str:
    return owner.value if isinstance(owner, Use) else owner


def _name_field(blob: BlobInfo) -> str | None:
    name = blob.name
    return None if name is None else unicode_text(name)
