"""What a store and its blobs look like from outside, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from blobstore.errors import BlobstoreError
from blobstore.format.super_block import NO_BLOB
from blobstore.metadata.blob_state import EXTERNAL, BlobState, all_pages
from blobstore.metadata.store_state import StoreState
from blobstore.store.names import name_in
from blobstore.store.salvaged_mark import SALVAGED
from blobstore.units import BlobId


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store as a whole; sizes in bytes, `bstype` 16 bytes padded with zeroes.

    `free_md_pages` leaves out the pages that changes in memory need to become durable.
    """

    version: int
    clean: bool
    size: int
    cluster_size: int
    page_size: int
    io_unit_size: int
    total_clusters: int
    data_clusters: int
    free_clusters: int
    md_start: int
    md_len: int
    free_md_pages: int
    bstype: bytes
    super_blob: BlobId | None
    blob_count: int
    max_growable_size: int


@dataclass(slots=True)
class BlobInfo:
    """One blob: its size, what it is, its relations, and where its metadata stands.

    `size` is in bytes. `extents` are (first cluster, or 0 for unallocated, count), in
    order: a sequence that takes eight bytes for each. `read_only` tells that the data or
    the metadata may not be changed, `data_read_only` that it is the data. Where the blob
    cannot be opened, `error` says why; else it is None. Then `blob_id` and `xattrs` alone say
    anything, and `xattrs` is empty if the blob's own metadata cannot be read.
    """

    blob_id: BlobId
    cluster_count: int
    size: int
    allocated_clusters: int
    thin: bool
    read_only: bool
    data_read_only: bool
    snapshot: bool
    parent: BlobId | None
    clones: list[BlobId]
    external_snapshot: bytes | None
    extent_table: bool
    clear_method: int
    xattrs: dict[str, bytes]
    internal_xattrs: dict[str, bytes]
    extents: Sequence[tuple[int, int]]
    metadata_pages: list[int]
    extent_pages: list[int]
    invalid_flags: int
    data_ro_flags: int
    md_ro_flags: int
    error: BlobstoreError | None = None

    @classmethod
    def of_unopened(
        cls,
        blob_id: BlobId,
        error: BlobstoreError,
        xattrs: Mapping[str, bytes] = MappingProxyType({}),
    ) -> "BlobInfo":
        """Return what is known of a blob that cannot be opened: why, and maybe its attributes."""
        return cls(
            blob_id=blob_id,
            cluster_count=0,
            size=0,
            allocated_clusters=0,
            thin=False,
            read_only=False,
            data_read_only=False,
            snapshot=False,
            parent=None,
            clones=[],
            external_snapshot=None,
            extent_table=False,
            clear_method=0,
            xattrs=dict(xattrs),
            internal_xattrs={},
            extents=(),
            metadata_pages=[],
            extent_pages=[],
            invalid_flags=0,
            data_ro_flags=0,
            md_ro_flags=0,
            error=error,
        )

    @property
    def name(self) -> str | None:
        """The attribute ``name`` as text, without padding; None if there is none."""
        return name_in(self.xattrs)

    @property
    def salvaged(self) -> bool:
        """Whether a repair has salvaged the blob: what it had lost reads as zeroes since."""
        return SALVAGED in self.xattrs


def describe_store(store: StoreState) -> StoreInfo:
    """Return what the store is now."""
    super_block, geometry = store.super_block, store.geometry
    return StoreInfo(
        version=super_block.version,
        clean=super_block.clean,
        size=geometry.size_bytes,
        cluster_size=geometry.cluster_size,
        page_size=geometry.page_size,
        io_unit_size=geometry.io_unit_size,
        total_clusters=geometry.total_clusters,
        data_clusters=geometry.data_clusters,
        free_clusters=store.free_clusters,
        md_start=geometry.md_start,
        md_len=geometry.md_len,
        free_md_pages=max(0, store.pages.available - store.reservations.total),
        bstype=store.bstype,
        super_blob=_none_if_unset(super_block.super_blob),
        blob_count=store.used_ids.count(),
        max_growable_size=geometry.max_growable_size,
    )


def _none_if_unset(blob_id: BlobId) -> BlobId | None:
    return None if blob_id == NO_BLOB else blob_id


def describe_blob(store: StoreState, blob: BlobState) -> BlobInfo:
    """Return what an open blob is now, changes included that are not durable yet."""
    flags, clones = blob.flags, store.clones.of(blob.blob_id)
    return BlobInfo(
        blob_id=blob.blob_id,
        cluster_count=blob.clusters.count,
        size=blob.clusters.count * store.geometry.cluster_size,
        allocated_clusters=blob.clusters.allocated_count,
        thin=blob.is_thin,
        read_only=blob.md_read_only,
        data_read_only=blob.data_read_only,
        snapshot=bool(blob.data_read_only and clones),
        parent=blob.parent_id,
        clones=[*clones],
        external_snapshot=blob.internal_xattrs.get(EXTERNAL) if blob.has_external_parent else None,
        extent_table=blob.extent_pages is not None,
        clear_method=blob.clear_method,
        xattrs=dict(blob.xattrs),
        internal_xattrs=dict(blob.internal_xattrs),
        extents=blob.clusters.runs(),
        metadata_pages=[blob.root, *blob.chain],
        extent_pages=all_pages(blob.extent_pages or ()),
        invalid_flags=flags.invalid,
        data_ro_flags=flags.data_ro,
        md_ro_flags=flags.md_ro,
    )
