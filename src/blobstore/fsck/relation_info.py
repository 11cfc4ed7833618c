"""What relations between blobs need to be known of each: parents and partners (CRASH-SAFETY 5)."""

from dataclasses import dataclass

from blobstore.format.descriptors import READ_ONLY, THIN_PROV
from blobstore.fsck.parsed_blob import ParsedBlob
from blobstore.metadata.batch_decoding import RootSummary
from blobstore.units import BlobId


@dataclass(frozen=True, slots=True)
class RelationInfo:
    """A blob's part in the relations between blobs; not sure where its root is not sound."""

    blob_id: BlobId
    parent_id: BlobId | None = None
    has_external_id: bool = False
    has_external_flag: bool = False
    has_hidden_internals: bool = False
    has_stale_parent: bool = False
    is_thin: bool = False
    is_read_only: bool = False
    marker: tuple[str, BlobId] | None = None
    cluster_count: int = 0
    is_sure: bool = True

    @classmethod
    def of(cls, blob: ParsedBlob) -> "RelationInfo":
        """Take them from a blob that was walked."""
        return cls(
            blob_id=blob.blob_id,
            parent_id=blob.parent_id,
            has_external_id=blob.external_id is not None,
            has_external_flag=blob.has_external_flag,
            has_hidden_internals=blob.has_hidden_internals,
            has_stale_parent=blob.has_stale_parent,
            is_thin=blob.is_thin,
            is_read_only=blob.is_read_only,
            marker=blob.marker,
            cluster_count=blob.cluster_count,
            is_sure=blob.is_root_sound,
        )

    @classmethod
    def of_summary(cls, blob_id: BlobId, summary: RootSummary) -> "RelationInfo":
        """Take them from a blob that was looked at together with others."""
        return cls(
            blob_id=blob_id,
            parent_id=summary.parent_id,
            is_thin=bool(summary.flags.invalid & THIN_PROV),
            is_read_only=bool(summary.flags.data_ro & READ_ONLY),
            cluster_count=summary.cluster_count,
        )
