"""A blob as far as it can be read, whatever is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from blobstore.format.descriptors import (
    EXTERNAL_SNAPSHOT,
    HAS_INTERNAL_XATTRS,
    KNOWN_DATA_RO,
    KNOWN_INVALID,
    READ_ONLY,
    THIN_PROV,
    Flags,
)
from blobstore.fsck.finding import Finding, Findings, Severity
from blobstore.fsck.segments import Places, Segments
from blobstore.metadata.blob_state import (
    EXTERNAL,
    SNAP,
    SNAPSHOT_IN_PROGRESS,
    SNAPSHOT_REMOVAL,
)
from blobstore.units import BlobId, PageIndex

_ID_SIZE = 8
_CUTTING = frozenset({21, 23, 29, 30, 38})
"""What breaks one of these may have named clusters that are not known now."""


@dataclass(slots=True)
class ParsedBlob:
    """What is known of one blob.

    `chain` and `extent_pages` are pages that are sound and name this blob's
    content; `table` is its extent table as it stands, if it has one; `lost` are
    places (first, count) whose clusters cannot be known. `misplaced` are pages of the store that
    hold a copy of another one.
    `is_root_sound` is False when the root page is not as it must be: all the rest
    is then only likely; with `is_root_foreign` it is not even this blob's.
    """

    blob_id: BlobId
    root: PageIndex
    is_root_sound: bool = True
    is_root_foreign: bool = False
    flags: Flags = field(default_factory=Flags)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    internal_xattrs: dict[str, bytes] = field(default_factory=dict)
    chain: list[PageIndex] = field(default_factory=list)
    extent_pages: list[PageIndex] = field(default_factory=list)
    table: list[tuple[int, int]] | None = None
    cluster_count: int = 0
    segments: Segments = field(default_factory=Segments)
    lost: Places = field(default_factory=Places)
    findings: Findings = field(default_factory=Findings)
    misplaced: Mapping[PageIndex, PageIndex] = field(default_factory=dict)

    def add(
        self,
        invariant: int,
        message: str,
        *,
        severity: Severity = Severity.ERROR,
        page: int | None = None,
        cluster: int | None = None,
    ) -> None:
        """Note what is wrong with it."""
        if self.findings.admit(invariant, severity):
            place = None if page is None else PageIndex(page)
            text = f"{self.name}: {message}"
            finding = Finding(invariant, severity, text, self.blob_id, place, cluster)
            self.findings.kept.append(finding)

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"blob {self.blob_id:#x}"

    def forget_content(self) -> None:
        """Drop all but what is wrong with it, and whether some of it is lost."""
        self.xattrs, self.internal_xattrs = {}, {}
        self.chain, self.extent_pages, self.table = [], [], None
        self.segments = Segments()
        self.lost = Places(self.lost.firsts[:1], self.lost.counts[:1])

    @property
    def is_broken(self) -> bool:
        """Tell whether something is wrong, not only worth knowing."""
        return self.findings.error_count > 0

    @property
    def lacks_clusters(self) -> bool:
        """Tell whether the blob owns clusters that it cannot name any more."""
        is_cut = any(invariant in _CUTTING for invariant, _severity in self.findings.counts)
        return bool(not self.is_root_sound or self.lost or is_cut)

    @property
    def metadata_pages(self) -> list[PageIndex]:
        """All its pages but the root."""
        return [*self.chain, *self.extent_pages]

    @property
    def is_newer(self) -> bool:
        """Tell whether a newer version wrote it, so that what else it owns is not known."""
        return self.is_root_sound and bool(self.flags.invalid & ~KNOWN_INVALID)

    @property
    def has_table(self) -> bool:
        """Tell whether its extents are in a table, and not run-length."""
        return self.table is not None

    @property
    def is_thin(self) -> bool:
        """Tell whether clusters may be unallocated."""
        return bool(self.flags.invalid & THIN_PROV)

    @property
    def is_read_only(self) -> bool:
        """Tell whether it opens read-only: it says so, or has an unknown flag that means it."""
        return bool(self.flags.data_ro & (READ_ONLY | ~KNOWN_DATA_RO))

    @property
    def has_hidden_internals(self) -> bool:
        """Tell whether there are internal attributes that no flag announces."""
        return bool(self.internal_xattrs) and not self.flags.invalid & HAS_INTERNAL_XATTRS

    @property
    def has_external_flag(self) -> bool:
        """Tell whether the flags say that its parent lives outside the store."""
        return bool(self.flags.invalid & EXTERNAL_SNAPSHOT)

    @property
    def external_id(self) -> bytes | None:
        """The id of the external snapshot, whatever the flags say."""
        return self.internal_xattrs.get(EXTERNAL)

    @property
    def parent_id(self) -> BlobId | None:
        """The snapshot that this blob says it is a clone of, if that is an id at all.

        The flag of an external snapshot decides: a `SNAP` beside it is stale (FORMAT 5).
        """
        return None if self.has_external_flag else self._id_in(SNAP)

    @property
    def has_stale_parent(self) -> bool:
        """Tell whether it names a parent although it is the clone of an external snapshot."""
        return self.has_external_flag and SNAP in self.internal_xattrs

    @property
    def marker(self) -> tuple[str, BlobId] | None:
        """The internal attribute and the partner of an unfinished snapshot operation."""
        for name in (SNAPSHOT_IN_PROGRESS, SNAPSHOT_REMOVAL):
            partner = self._id_in(name)
            if partner is not None:
                return name, partner
        return None

    def _id_in(self, name: str) -> BlobId | None:
        value = self.internal_xattrs.get(name)
        if value is None or len(value) != _ID_SIZE:
            return None
        return BlobId(int.from_bytes(value, "little"))
