"""Salvage: the sound parts of a bad blob are kept, and the rest is reported as missing.

A blob that is broken, or that shares a place with another blob, is rewritten at
its own place and under its own id. The blob is then read-only, and its attribute
`salvaged` gives the reason. A cluster that belongs to another blob already is
copied to a free one, so that both blobs keep what they read. Unknown content
becomes a hole.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from bitarray import bitarray

from blobstore.errors import NoSpaceError
from blobstore.format.descriptors import (
    KNOWN_DATA_RO,
    KNOWN_INVALID,
    KNOWN_MD_RO,
    READ_ONLY,
    THIN_PROV,
    Flags,
)
from blobstore.format.geometry import blob_id_of, root_of
from blobstore.format.root import Layout
from blobstore.fsck.finding import Severity
from blobstore.fsck.free import FreeClusters, FreePages
from blobstore.fsck.inherited_pages import inherited_pages
from blobstore.fsck.lost_identities import clones_above, drop_identity
from blobstore.fsck.orphan_pages import adopt_orphan_pages
from blobstore.fsck.ownership_checks import Ownership
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.fsck.region_view import RegionView
from blobstore.fsck.relation_checks import Mend, Problem, snapshot_stands
from blobstore.fsck.rewrite import copy_cluster, rewrite_blob, zero_pages
from blobstore.fsck.segments import Segments, counted, name_run, runs_of, without_shared
from blobstore.fsck.shared_places import shared_by_sound
from blobstore.fsck.unowned_clusters import keep_unowned_clusters
from blobstore.metadata.blob_reader import Revisits
from blobstore.metadata.blob_state import (
    EXTERNAL,
    SNAP,
    SNAPSHOT_IN_PROGRESS,
    SNAPSHOT_REMOVAL,
)
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import BlobId, PageIndex

_REASON_BYTES: Final = 200
_REASONS_MAX: Final = 4


@dataclass(slots=True)
class _Work:
    """What is owned by now, where there is room, and what was done so far.

    `shared` tells of sound blobs which places others own too.
    """

    view: RegionView
    layout: Layout
    ownership: Ownership
    free_pages: FreePages
    free_clusters: FreeClusters
    problems: dict[BlobId, list[Problem]]
    shared: dict[BlobId, str]
    orphans: dict[BlobId, list[PageIndex]]
    actions: list[str] = field(default_factory=list)
    old_pages: set[PageIndex] = field(default_factory=set)
    salvaged: set[BlobId] = field(default_factory=set)


async def salvage(view: RegionView, layout: Layout) -> tuple[list[str], set[BlobId]]:
    """Mend or salvage every bad blob; return what was done, and which blobs were salvaged."""
    problems: defaultdict[BlobId, list[Problem]] = defaultdict(list)
    for problem in view.problems:
        if problem.mends:
            problems[problem.target or problem.blob_id].append(problem)
    for problem in _undecided(view):
        problems[problem.blob_id].append(problem)
    shared = await shared_by_sound(view, set(view.broken) | set(problems))
    suspects = set(view.broken) | set(problems) | set(shared)
    ownership = Ownership(view.geometry)
    _reserve_roots(view, ownership)
    latecomers = await _claim_sound(view, ownership, suspects)
    targets = _in_order(view, suspects | set(latecomers))
    work = _Work(
        view=view,
        layout=layout,
        ownership=ownership,
        free_pages=FreePages(ownership.pages),
        free_clusters=FreeClusters(await _possibly_owned(view, ownership, targets)),
        problems=problems,
        shared=shared,
        orphans=_by_owner(view),
    )
    for blob_id in targets:
        await _restore(work, blob_id)
    await _keep_unowned(work, targets)
    await _erase_orphans(work)
    return work.actions, work.salvaged


def _undecided(view: RegionView) -> Iterator[Problem]:
    """Yield unfinished snapshots whose partner does not say any more which of the two stands.

    Both are kept: the partner may only have lost the name of its parent.
    """
    for info in view.relations.values():
        if info.marker is None or info.marker[1] not in view.broken:
            continue
        if info.is_sure and not snapshot_stands(info, view.relations):
            name, partner_id = info.marker
            message = f"{name} of {partner_id:#x}, which is broken"
            mends = (Mend.DROP_MARKER, Mend.SET_READ_ONLY)
            yield Problem(info.blob_id, 43, message, mends=mends)


def _by_owner(view: RegionView) -> dict[BlobId, list[PageIndex]]:
    orphans: defaultdict[BlobId, list[PageIndex]] = defaultdict(list)
    for page, owner in view.orphans.items():
        orphans[owner].append(page)
    return orphans


def _reserve_roots(view: RegionView, ownership: Ownership) -> None:
    """Keep the page of every root that is one, or was."""
    for root in view.roots:
        blob = view.broken.get(blob_id_of(root))
        if blob is None or not blob.is_root_foreign:
            ownership.pages[root] = True
    ownership.pages[view.torn.copies] = True  # recovery puts them in their roots' places


def _in_order(view: RegionView, targets: set[BlobId]) -> list[BlobId]:
    """Put sound blobs first, lost ones last: what they say they own is the least sure."""

    def rank(blob_id: BlobId) -> tuple[bool, bool, bool, BlobId]:
        blob = view.broken.get(blob_id)
        if blob is None:
            return False, False, False, blob_id
        return not blob.is_root_sound, blob.lacks_clusters, True, blob_id

    return sorted(targets, key=rank)


async def _claim_sound(
    view: RegionView, ownership: Ownership, suspects: set[BlobId]
) -> list[BlobId]:
    """Let sound blobs own what is theirs; return those that find some of it taken."""
    single: set[int] = set()
    if view.single_page is not None:
        reserved = ownership.pages.copy()
        ownership.take_single_page(view.single_page)
        ownership.pages |= reserved
        single = set(view.single_page.roots.tolist())
        for blob_id in suspects:
            if root_of(blob_id) in single:  # what is its own is not another's
                suspect = await view.walk(blob_id)
                ownership.pages[suspect.metadata_pages] = False
                ownership.release_clusters(suspect.segments)
    latecomers: list[BlobId] = []
    marked: list[ParsedBlob] = []
    revisits = Revisits(view.geometry)
    for root in view.roots:
        blob_id = blob_id_of(root)
        if root in single or blob_id in suspects:
            continue
        blob = await view.walk(blob_id, revisits)
        if blob.marker is not None:
            marked.append(blob)
        elif blob.is_broken or _is_shared(ownership, blob):
            latecomers.append(blob_id)
        else:
            _own(ownership, blob)
    for blob in marked:
        if await _is_shared_with_others(view, ownership, blob):
            latecomers.append(blob.blob_id)
        else:
            _own(ownership, blob)
    return latecomers


async def _is_shared_with_others(view: RegionView, ownership: Ownership, blob: ParsedBlob) -> bool:
    """Tell whether a blob other than its partner owns part of an unfinished snapshot.

    The two may own the same until recovery decides.
    """
    own = ParsedBlob(blob.blob_id, blob.root, chain=blob.chain, extent_pages=blob.extent_pages)
    own.segments = blob.segments
    if blob.marker is not None and view.geometry.names_root(blob.marker[1]):
        partner = await view.walk(blob.marker[1])
        own.extent_pages = [at for at in own.extent_pages if at not in partner.extent_pages]
        own.segments = without_shared(own.segments, partner.segments)
    return _is_shared(ownership, own)


def _own(ownership: Ownership, blob: ParsedBlob) -> None:
    ownership.pages[blob.metadata_pages] = True
    for _index, first, count in blob.segments:
        ownership.clusters[first : first + count] = True


def _is_shared(ownership: Ownership, blob: ParsedBlob) -> bool:
    """Tell whether another blob owns part of it already, or it owns a place twice."""
    pages = blob.metadata_pages
    if len(set(pages)) != len(pages) or ownership.pages[pages].any():
        return True
    spans = sorted((first, first + count) for _index, first, count in blob.segments)
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        return True
    return any(ownership.clusters[first:end].any() for first, end in spans)


async def _possibly_owned(
    view: RegionView, ownership: Ownership, targets: Sequence[BlobId]
) -> bitarray:
    """Return the clusters that must not be written to: claimed by any blob, or marked used."""
    taken = ownership.clusters.copy()
    if view.masks is not None and view.masks.clusters is not None:
        taken |= view.masks.clusters
    for blob_id in targets:
        for _index, first, count in (await view.walk(blob_id)).segments:
            taken[first : first + count] = True
    return taken


async def _restore(work: _Work, blob_id: BlobId) -> None:
    """Rewrite one blob, and record what was done."""
    blob = await work.view.walk(blob_id)
    work.old_pages.update(blob.metadata_pages)
    if blob.is_root_foreign and work.ownership.pages[blob.root]:
        message = f"forgotten: its root page {blob.root} belongs to another blob"
        work.actions.append(f"blob {blob_id:#x}: {message}")
        return
    work.ownership.pages[blob.root] = True
    reasons = _reasons_of(blob)
    if blob_id in work.shared:
        reasons.append(work.shared[blob_id])
    if not blob.is_root_sound:
        blob.flags = _known(blob.flags)
        reasons += await _adopt_orphans(work, blob)
    reasons += await _claim_clusters(work, blob)
    mended = [problem.message for problem in work.problems.get(blob_id, ())]
    is_salvaged = bool(reasons) or _mend(blob, work.problems.get(blob_id, ()))
    if is_salvaged:
        _mark_salvaged(work, blob, [*reasons, *mended])
    await _write(work, blob, keeps_table=not is_salvaged)
    what = "salvaged, read-only" if is_salvaged else "mended"
    said = [*reasons, *mended]
    if is_salvaged:
        said += _readers_of(work.view, blob_id)
    work.actions.append(f"blob {blob_id:#x}: {what}: {'; '.join(said)}")


def _readers_of(view: RegionView, blob_id: BlobId) -> list[str]:
    """Name the clones of a salvaged blob, and theirs: they read zeroes where it lost something."""
    names = ", ".join(f"{each:#x}" for each in clones_above(view, [blob_id]))
    return [f"what it lost is missing in its clones too: {names}"] if names else []


def _reasons_of(blob: ParsedBlob) -> list[str]:
    """Say what is wrong with it, the first of many, and how much of it is lost."""
    reasons = [
        finding.message.removeprefix(f"{blob.name}: ")
        for finding in blob.findings.kept
        if finding.severity is Severity.ERROR
    ]
    count = blob.findings.error_count
    if count > _REASONS_MAX:
        reasons[_REASONS_MAX:] = [f"and {count - _REASONS_MAX} more"]
    lost = blob.lost.place_count
    if lost:
        verb = "is lost, and a hole now" if lost == 1 else "are lost, and holes now"
        reasons.append(f"{lost} of its {counted(blob.cluster_count, 'cluster')} {verb}")
    return reasons


async def _adopt_orphans(work: _Work, blob: ParsedBlob) -> list[str]:
    """Take what pages with a lost blob's id still say, where its root says nothing."""
    if blob.segments:
        return []
    pages = work.orphans.get(blob.blob_id, ())
    contents = [await work.view.fetch(page) for page in pages]
    sound = [content for content in contents if content is not None]
    reasons: list[str] = []
    if adopt_orphan_pages(work.view.geometry, blob, sound):
        reasons.append(f"pages with its id were found: {len(sound)}")
    if not blob.segments:
        inherited = await inherited_pages(work.view, blob.blob_id)
        if adopt_orphan_pages(work.view.geometry, blob, inherited.values()):
            what = f"{counted(len(inherited), 'extent page')} with the id of a clone"
            reasons.append(
                f"its likely content was found in {what}: parts may be wrong, in its clones too"
            )
    return reasons


async def _claim_clusters(work: _Work, blob: ParsedBlob) -> list[str]:
    """Claim the blob's clusters; those that have an owner by now are copied, or lost."""
    segments = Segments()
    owned = work.ownership.clusters
    copied = missing = 0
    for index, first, count in blob.segments:
        if not owned[first : first + count].any():
            owned[first : first + count] = True
            segments.add(index, first, count)
            continue
        for at in range(count):
            target = work.free_clusters.take() if owned[first + at] else first + at
            if target is None:
                missing += 1
                continue
            if target != first + at:
                await copy_cluster(work.view.geometry, source=first + at, target=target)
                copied += 1
            owned[target] = True
            segments.add(index + at, target, 1)
    blob.segments = segments
    notes: list[str] = []
    if copied:
        notes.append(f"copied, because another blob owns the same: {counted(copied, 'cluster')}")
    if missing:
        notes.append(f"lost, because no cluster is free for a copy: {counted(missing, 'cluster')}")
    return notes


async def _keep_unowned(work: _Work, targets: Sequence[BlobId]) -> None:
    """Keep clusters that are marked used and have no owner, if a blob has lost some."""
    masks = work.view.masks
    broken = (work.view.broken.get(blob_id) for blob_id in targets)
    lacking = [blob.blob_id for blob in broken if blob is not None and blob.lacks_clusters]
    if masks is None or masks.clusters is None or not lacking:
        return
    unowned = masks.clusters & ~work.ownership.clusters
    if unowned.any():
        work.actions.append(
            await keep_unowned_clusters(
                work.view,
                work.layout,
                unowned=unowned,
                free_pages=work.free_pages,
                lacking=lacking,
            )
        )


def _mend(blob: ParsedBlob, problems: Iterable[Problem]) -> bool:
    """Put the blob's relations right; tell whether that loses some of its content."""
    loses_content = False
    for problem in problems:
        loses_content |= problem.loses_content
        for mend in problem.mends:
            _apply(blob, mend)
    return loses_content


def _apply(blob: ParsedBlob, mend: Mend) -> None:
    if mend is Mend.SET_THIN:
        _set_flags(blob, invalid=THIN_PROV)
    elif mend is Mend.SET_READ_ONLY:
        _set_flags(blob, data_ro=READ_ONLY)
    elif mend is Mend.DROP_PARENT:
        blob.internal_xattrs.pop(SNAP, None)
    elif mend is Mend.DROP_EXTERNAL:
        blob.internal_xattrs.pop(EXTERNAL, None)
    elif mend is Mend.DROP_MARKER:
        blob.internal_xattrs.pop(SNAPSHOT_IN_PROGRESS, None)
        blob.internal_xattrs.pop(SNAPSHOT_REMOVAL, None)


def _set_flags(blob: ParsedBlob, *, invalid: int = 0, data_ro: int = 0) -> None:
    flags = blob.flags
    blob.flags = Flags(flags.invalid | invalid, flags.data_ro | data_ro, flags.md_ro)


def _known(flags: Flags) -> Flags:
    """Return flags without what no version has written: they may be the damage itself."""
    return Flags(
        flags.invalid & KNOWN_INVALID, flags.data_ro & KNOWN_DATA_RO, flags.md_ro & KNOWN_MD_RO
    )


def _mark_salvaged(work: _Work, blob: ParsedBlob, reasons: list[str]) -> None:
    """Make the blob read-only and thin, and let it say why; its copies elsewhere may differ."""
    work.salvaged.add(blob.blob_id)
    if blob.is_read_only or not blob.is_root_sound:
        drop_identity(blob)
    _set_flags(blob, invalid=THIN_PROV, data_ro=READ_ONLY)
    blob.xattrs[SALVAGED] = "; ".join(reasons).encode()[:_REASON_BYTES]
    for name in (SNAP, SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL):
        if len(blob.internal_xattrs.get(name, bytes(8))) != 8:
            del blob.internal_xattrs[name]


async def _write(work: _Work, blob: ParsedBlob, *, keeps_table: bool) -> None:
    """Write the blob; one that finds no room keeps its place, and nothing else."""
    geometry = work.view.geometry
    pages = blob.extent_pages
    keeps_table = keeps_table and not work.ownership.pages[pages].any()
    if keeps_table:
        work.ownership.pages[pages] = True
    why = ""
    for layout in (work.layout, Layout.COMPACT):  # of which the root holds more
        try:
            await rewrite_blob(geometry, layout, blob, work.free_pages, keeps_table=keeps_table)
        except NoSpaceError as error:
            why = error.message
        else:
            return
    work.actions.append(f"blob {blob.blob_id:#x}: left without clusters: {why}")
    empty = ParsedBlob(blob.blob_id, blob.root, flags=blob.flags)
    _mark_salvaged(work, empty, ["no room for what it owned"])
    await rewrite_blob(geometry, work.layout, empty, work.free_pages)


async def _erase_orphans(work: _Work) -> None:
    """Empty the pages that have no owner any more, and those that cannot be read."""
    view = work.view
    candidates = work.old_pages | set(view.orphans) | {PageIndex(p) for p in view.reader.unreadable}
    pages = sorted(page for page in candidates if not work.ownership.pages[page])
    await zero_pages(view.geometry, pages)
    for first, count in runs_of(iter(pages)):
        them = "it" if count == 1 else "them"
        work.actions.append(f"{name_run('page', first, count)}: erased, no blob owns {them}")
