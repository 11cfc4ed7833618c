"""Unfinished snapshot operations: which of them are kept (FORMAT 6, CRASH-SAFETY 4).

A blob marked SNAPTMP or SNAPRM names its partner. If the partner's parent is
this blob, the snapshot is kept; otherwise the snapshot is removed. In both
cases the decision is made in memory and put into the plan.
"""

from blobstore.alloc.extent_map import common_spans, drop_all, mark_all
from blobstore.errors import BlobstoreError
from blobstore.format.descriptors import READ_ONLY, Flags
from blobstore.format.geometry import Geometry
from blobstore.metadata.blob_reader import read_blob
from blobstore.metadata.blob_state import (
    SNAPSHOT_IN_PROGRESS,
    SNAPSHOT_REMOVAL,
    BlobState,
)
from blobstore.metadata.page_reader import Fetch
from blobstore.metadata.recovered import Recovered, take_clusters, take_pages
from blobstore.units import BlobId


async def resolve_markers(
    geometry: Geometry, found: Recovered, fetch: Fetch, *, are_masks_clean: bool
) -> None:
    """Decide about every marked blob, in the order of their ids."""
    for blob_id in sorted(found.marked):
        try:
            changed = found.plan.changed.get(blob_id)
            state = changed or await read_blob(geometry, blob_id, fetch)
            await _resolve(geometry, found, state, fetch, are_masks_clean=are_masks_clean)
        except BlobstoreError as error:
            found.errors[blob_id] = error


async def _resolve(
    geometry: Geometry, found: Recovered, state: BlobState, fetch: Fetch, *, are_masks_clean: bool
) -> None:
    assert state.marker is not None
    _name, partner_id = state.marker
    partner = await _read_partner(geometry, found, partner_id, fetch)
    if partner is None:
        _leave(found, state, are_masks_clean=are_masks_clean)
    elif partner.parent_id == state.blob_id:
        _keep(found, state, partner, are_masks_clean=are_masks_clean)
    else:
        _remove(found, state, partner, are_masks_clean=are_masks_clean)


async def _read_partner(
    geometry: Geometry, found: Recovered, partner_id: BlobId, fetch: Fetch
) -> BlobState | None:
    """Return the partner as loading knows it, or None when it cannot be opened."""
    changed = found.plan.changed.get(partner_id)
    if changed is not None:
        return changed
    if partner_id in found.errors or not geometry.names_root(partner_id):
        return None
    try:
        return await read_blob(geometry, partner_id, fetch)
    except BlobstoreError:
        return None


def _leave(found: Recovered, state: BlobState, *, are_masks_clean: bool) -> None:
    if not are_masks_clean:
        take_pages(found, state)
        take_clusters(found, state)


def _keep(found: Recovered, state: BlobState, partner: BlobState, *, are_masks_clean: bool) -> None:
    """Make a snapshot of it: no marker, read-only, and the only owner of its clusters."""
    if not are_masks_clean:
        _disown(found, state, partner)
        take_pages(found, state)
        take_clusters(found, state)
    for name in (SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL):
        state.drop_internal(name)
    flags = state.flags_to_write()
    state.flags = Flags(flags.invalid, flags.data_ro | READ_ONLY, flags.md_ro)
    state.apply_read_only_flags(state.flags)
    state.touch_attributes()
    found.plan.changed[state.blob_id] = state


def _disown(found: Recovered, state: BlobState, partner: BlobState) -> None:
    """Drop the clone's clusters that are the snapshot's: a delete had begun to merge them."""
    shared = list(common_spans(state.clusters, partner.clusters))
    for index, first, count in shared:
        partner.clusters.set_run(index, 0, count)
        found.used_clusters[first : first + count] = False
    if shared:
        found.plan.changed[partner.blob_id] = partner


def _remove(
    found: Recovered, state: BlobState, partner: BlobState, *, are_masks_clean: bool
) -> None:
    """Forget the snapshot; what the partner does not own becomes free."""
    if are_masks_clean:
        drop_all(found.used_clusters, state.clusters)
        mark_all(found.used_clusters, partner.clusters)
        pages = set(state.metadata_pages) - set(partner.metadata_pages)
        found.used_pages[list(pages)] = False
    found.used_pages[state.root] = False
    found.used_ids[state.root] = False
    found.parents.pop(state.blob_id, None)
    found.plan.deleted.append(state.root)
