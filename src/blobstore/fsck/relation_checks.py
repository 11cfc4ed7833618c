"""The relations between blobs: parents, external parents, unfinished operations (39 to 45)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from blobstore.fsck.finding import Finding, Severity
from blobstore.fsck.relation_info import RelationInfo
from blobstore.units import BlobId, PageIndex

STALE_PARENT: Final = 41


class Mend(Enum):
    """What puts a relation right; `salvage` does it."""

    REWRITE = auto()  # the flags follow from the attributes
    SET_THIN = auto()
    SET_READ_ONLY = auto()
    DROP_PARENT = auto()
    DROP_EXTERNAL = auto()
    DROP_MARKER = auto()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong between blobs.

    `mends` are what `target` needs, the blob itself or its parent; with
    `loses_content` some of what the blob reads is not known any more.
    """

    blob_id: BlobId
    invariant: int
    message: str
    severity: Severity = Severity.ERROR
    mends: tuple[Mend, ...] = ()
    target: BlobId | None = None
    loses_content: bool = False

    @property
    def finding(self) -> Finding:
        """The same for people."""
        root = PageIndex(self.blob_id & 0xFFFF_FFFF)
        text = f"blob {self.blob_id:#x}: {self.message}"
        return Finding(self.invariant, self.severity, text, blob=self.blob_id, page=root)


def relation_problems(
    relations: Mapping[BlobId, RelationInfo], *, is_clean: bool
) -> Iterator[Problem]:
    """Look at every blob's relations; of one whose root is not sound nothing is said."""
    for blob in relations.values():
        if not blob.is_sure:
            continue
        if blob.has_hidden_internals:
            yield _hidden_internals(blob, is_clean=is_clean)
        yield from _external_problems(blob)
        if blob.parent_id is not None:
            yield from _parent_problems(blob, relations)
        if blob.marker is not None:
            yield from _marker_problems(blob, *blob.marker, relations, is_clean=is_clean)
    yield from _cycles(relations)


def _hidden_internals(blob: RelationInfo, *, is_clean: bool) -> Problem:
    """Say that attributes are not announced; the original stops so while it makes a snapshot."""
    message = "internal attributes without the flag for them"
    if blob.marker is not None and not is_clean:
        message = f"{blob.marker[0]} without its flag: the snapshot was not finished"
        return Problem(blob.blob_id, 26, message, Severity.NOTE)
    return Problem(blob.blob_id, 26, message, mends=(Mend.REWRITE,))


def _external_problems(blob: RelationInfo) -> Iterator[Problem]:
    this = blob.blob_id
    if blob.has_external_id and not blob.has_external_flag:
        mend = Mend.REWRITE if blob.parent_id is None else Mend.DROP_EXTERNAL
        message = "names an external snapshot, but its flag is not set"
        yield Problem(this, 41, message, mends=(mend,))
    if blob.has_external_flag and not blob.has_external_id:
        message = "the flag of an external snapshot is set, but none is named"
        yield Problem(this, 41, message, mends=(Mend.REWRITE,), loses_content=True)
    if blob.has_external_id and blob.has_stale_parent:
        message = "a clone of an external snapshot, with the name of an old parent left over"
        yield Problem(this, STALE_PARENT, message, Severity.NOTE, mends=(Mend.DROP_PARENT,))
    if blob.has_external_flag and not blob.is_thin:
        message = "a clone of an external snapshot, but not thin"
        yield Problem(this, 39, message, mends=(Mend.SET_THIN,))


def snapshot_stands(blob: RelationInfo, relations: Mapping[BlobId, RelationInfo]) -> bool:
    """Tell whether an unfinished snapshot is one already: its partner's parent is this blob."""
    if blob.marker is None or blob.marker[1] not in relations:
        return False
    return relations[blob.marker[1]].parent_id == blob.blob_id


def _parent_problems(
    blob: RelationInfo, relations: Mapping[BlobId, RelationInfo]
) -> Iterator[Problem]:
    this, parent_id = blob.blob_id, blob.parent_id
    assert parent_id is not None
    parent = relations.get(parent_id)
    if not blob.is_thin:
        yield Problem(this, 39, f"a clone of {parent_id:#x}, but not thin", mends=(Mend.SET_THIN,))
    if parent is None:
        message = f"its parent {parent_id:#x} does not exist"
        yield Problem(this, 39, message, mends=(Mend.DROP_PARENT,), loses_content=True)
        return
    if not parent.is_sure:
        return
    if not parent.is_read_only and not snapshot_stands(parent, relations):
        message = f"its parent {parent_id:#x} is not read-only"
        yield Problem(this, 39, message, mends=(Mend.SET_READ_ONLY,), target=parent_id)
    if parent.cluster_count != blob.cluster_count:
        size = "larger" if blob.cluster_count > parent.cluster_count else "smaller"
        yield Problem(this, 42, f"{size} than its parent {parent_id:#x}", Severity.NOTE)


def _marker_problems(
    blob: RelationInfo,
    name: str,
    partner_id: BlobId,
    relations: Mapping[BlobId, RelationInfo],
    *,
    is_clean: bool,
) -> Iterator[Problem]:
    this = blob.blob_id
    if is_clean:
        yield Problem(this, 45, f"{name} of {partner_id:#x} in a store that was unloaded")
    if partner_id not in relations or partner_id == this:
        message = f"{name} names {partner_id:#x}, which does not exist"
        yield Problem(this, 44, message, mends=(Mend.DROP_MARKER, Mend.SET_READ_ONLY))
        return
    if is_clean:
        return
    if not relations[partner_id].is_sure:
        fate = "stays as it is"
    else:
        fate = "stands" if snapshot_stands(blob, relations) else "is removed"
    message = f"{name} of {partner_id:#x}: the snapshot {fate} when the store is recovered"
    yield Problem(this, 43, message, Severity.NOTE)


def _cycles(relations: Mapping[BlobId, RelationInfo]) -> Iterator[Problem]:
    """Walk from every blob to the end of its parents; each is passed once in all."""
    is_done: set[BlobId] = set()
    for start in relations:
        path: dict[BlobId, None] = {}
        at: BlobId | None = start
        while at is not None and at in relations and at not in is_done and at not in path:
            path[at] = None
            at = relations[at].parent_id
        if at is not None and at in path:
            yield from _cycle(list(path), at)
        is_done.update(path)


def _cycle(path: list[BlobId], entry: BlobId) -> Iterator[Problem]:
    cycle = path[path.index(entry) :]
    message = f"is its own ancestor, in a cycle of {len(cycle)} blobs"
    for blob_id in cycle:
        yield Problem(blob_id, 40, message, mends=(Mend.DROP_PARENT,), loses_content=True)
