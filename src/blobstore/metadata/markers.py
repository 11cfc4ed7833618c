"""Unfinished snapshot operations: which of them are kept (FORMAT 6, CRASH-SAFETY 4).

A blob marked SNAPTMP or SNAPRM names its partner. If the partner's parent is
this blob, the snapshot is kept; otherwise the snapshot is removed. In both
cases the decision is made in memory and put into the plan.

A marked blob can name any partner, and share extent pages with any blob. So each partner is
read once, and `Revisits` bounds how often pages are read again.
"""

from blobstore.alloc.extent_map import common_spans, drop_all, mark_all
from blobstore.errors import BlobstoreError
from blobstore.format.descriptors import READ_ONLY, Flags
from blobstore.format.geometry import Geometry
from blobstore.metadata.blob_reader import Revisits, read_blob
from blobstore.metadata.blob_state import (
    SNAPSHOT_IN_PROGRESS,
    SNAPSHOT_REMOVAL,
    BlobState,
)
from blobstore.metadata.page_reader import Fetch
from blobstore.metadata.recovered import Recovered, quarantine, take_clusters, take_pages
from blobstore.units import BlobId


async def resolve_markers(
    geometry: Geometry, found: Recovered, fetch: Fetch, *, are_masks_clean: bool
) -> None:
    """Decide about every marked blob, in the order of their ids."""
    decisions = _Decisions(geometry, found, fetch, are_masks_clean)
    for blob_id in sorted(found.marked):
        try:
            await decisions.decide(blob_id)
        except BlobstoreError as error:
            quarantine(found, blob_id, error)
    decisions.finish()


class _Decisions:
    """What is decided about the marked blobs of one store; `found` takes it."""

    def __init__(
        self, geometry: Geometry, found: Recovered, fetch: Fetch, are_masks_clean: bool
    ) -> None:
        self._geometry = geometry
        self._found = found
        self._fetch = fetch
        self._are_masks_clean = are_masks_clean
        self._revisits = Revisits(geometry)
        self._partners: dict[BlobId, BlobState | None] = {}
        self._left_over: dict[BlobId, BlobState] = {}

    async def decide(self, blob_id: BlobId) -> None:
        """Keep the snapshot or remove it; leave it as it is where its partner cannot be read.

        Raises:
            BlobstoreError: The blob cannot be read, or owns what another blob owns.
        """
        state = self._found.plan.changed.get(blob_id) or await self._read(blob_id)
        assert state.marker is not None
        partner = await self._read_partner(state.marker[1])
        if partner is None:
            self._take(state)
        elif partner.parent_id == blob_id:
            self._keep(state, partner)
        else:
            self._remove(state, partner)

    async def _read(self, blob_id: BlobId) -> BlobState:
        return await read_blob(self._geometry, blob_id, self._fetch, self._revisits)

    async def _read_partner(self, partner_id: BlobId) -> BlobState | None:
        """Return the partner as loading knows it, or None when it cannot be opened."""
        changed = self._found.plan.changed.get(partner_id)
        if changed is not None:
            return changed
        if partner_id in self._found.errors or not self._geometry.names_root(partner_id):
            return None
        if partner_id not in self._partners:
            try:
                self._partners[partner_id] = await self._read(partner_id)
            except BlobstoreError:
                self._partners[partner_id] = None
        return self._partners[partner_id]

    def _take(self, state: BlobState) -> None:
        """Mark what the blob owns; the masks of a clean store say so already."""
        if not self._are_masks_clean:
            take_pages(self._found, state)
            take_clusters(self._found, state)

    def _keep(self, state: BlobState, partner: BlobState) -> None:
        """Make a snapshot of it: no marker, read-only, and the only owner of its clusters."""
        if not self._are_masks_clean:
            self._disown(state, partner)
        self._take(state)
        for name in (SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL):
            state.drop_internal(name)
        flags = state.flags_to_write()
        state.flags = Flags(flags.invalid, flags.data_ro | READ_ONLY, flags.md_ro)
        state.apply_read_only_flags(state.flags)
        state.touch_attributes()
        self._found.plan.changed[state.blob_id] = state

    def _disown(self, state: BlobState, partner: BlobState) -> None:
        """Drop the clone's clusters that are the snapshot's: a delete had begun to merge them."""
        shared = list(common_spans(state.clusters, partner.clusters))
        for index, first, count in shared:
            partner.clusters.set_run(index, 0, count)
            self._found.used_clusters[first : first + count] = False
        if shared:
            self._found.plan.changed[partner.blob_id] = partner

    def _remove(self, state: BlobState, partner: BlobState) -> None:
        """Forget the snapshot; what the partner does not own becomes free."""
        found = self._found
        if self._are_masks_clean:
            drop_all(found.used_clusters, state.clusters)
            self._left_over[partner.blob_id] = partner
            pages = set(state.metadata_pages).difference(partner.metadata_pages)
            found.used_pages[list(pages)] = False
        found.used_pages[state.root] = False
        found.used_ids[state.root] = False
        found.parents.pop(state.blob_id, None)
        found.plan.deleted.append(state.root)

    def finish(self) -> None:
        """Mark what partners of removed snapshots own: a removal clears what the two share."""
        for partner in self._left_over.values():
            mark_all(self._found.used_clusters, partner.clusters)
