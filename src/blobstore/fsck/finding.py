"""What a check finds: one finding for each broken invariant and place (CRASH-SAFETY 5)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from blobstore.units import BlobId, PageIndex

KEPT_PER_INVARIANT: Final = 1000
"""More findings of one invariant are counted and not kept: a ruined store has no end of them."""


class Severity(StrEnum):
    """How bad it is.

    An *error* makes something wrong or unreadable, a *leak* only keeps space
    from being used, a *note* is worth knowing and needs no repair.
    """

    ERROR = "error"
    LEAK = "leak"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken invariant, by its number, and where: a blob, a metadata page, a cluster."""

    invariant: int
    severity: Severity
    message: str
    blob: BlobId | None = None
    page: PageIndex | None = None
    cluster: int | None = None

    def __str__(self) -> str:
        return f"{self.severity} {self.invariant}: {self.message}"


@dataclass(slots=True)
class Findings:
    """Findings so far, a bounded number of each invariant."""

    kept: list[Finding] = field(default_factory=list)
    counts: dict[tuple[int, Severity], int] = field(default_factory=dict)

    def add(
        self,
        invariant: int,
        message: str,
        *,
        severity: Severity = Severity.ERROR,
        blob: BlobId | None = None,
        page: PageIndex | None = None,
        cluster: int | None = None,
    ) -> None:
        """Note a broken invariant."""
        self.take(Finding(invariant, severity, message, blob, page, cluster))

    def take(self, finding: Finding) -> None:
        """Note a finding that somebody else has made."""
        kind = (finding.invariant, finding.severity)
        count = self.counts.get(kind, 0) + 1
        self.counts[kind] = count
        if count <= KEPT_PER_INVARIANT:
            self.kept.append(finding)

    def take_all(self, findings: Iterable[Finding]) -> None:
        """Note many."""
        for finding in findings:
            self.take(finding)

    def __iter__(self) -> Iterator[Finding]:
        """Go through those that were kept, then say of which there were more."""
        yield from self.kept
        for (invariant, severity), count in self.counts.items():
            if count > KEPT_PER_INVARIANT:
                more = count - KEPT_PER_INVARIANT
                yield Finding(
                    invariant, severity, f"and {more} more findings of invariant {invariant}"
                )
