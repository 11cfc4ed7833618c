"""What a check finds: one finding for each broken invariant and place (CRASH-SAFETY 5)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

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


Kind: TypeAlias = tuple[int, Severity]
"""An invariant, and how bad it is that it does not hold."""


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
    """Findings so far, a bounded number of each invariant.

    Those that are to follow others count what came `earlier`.
    """

    kept: list[Finding] = field(default_factory=list)
    counts: dict[Kind, int] = field(default_factory=dict)
    earlier: Mapping[Kind, int] = field(default_factory=dict)

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
        if self.admit(invariant, severity):
            self.kept.append(Finding(invariant, severity, message, blob, page, cluster))

    def admit(self, invariant: int, severity: Severity) -> bool:
        """Count a finding; tell whether it is to be kept."""
        kind = (invariant, severity)
        count = self.counts.get(kind, 0) + 1
        self.counts[kind] = count
        return count + self.earlier.get(kind, 0) <= KEPT_PER_INVARIANT

    def room_for(self, invariant: int, severity: Severity = Severity.ERROR) -> int:
        """Return how many more findings of an invariant would be kept."""
        kind = (invariant, severity)
        count = self.counts.get(kind, 0) + self.earlier.get(kind, 0)
        return max(0, KEPT_PER_INVARIANT - count)

    def count_more(self, count: int, invariant: int, severity: Severity = Severity.ERROR) -> None:
        """Count findings that there is no room for."""
        if count > 0:
            kind = (invariant, severity)
            self.counts[kind] = self.counts.get(kind, 0) + count

    def take(self, finding: Finding) -> None:
        """Note a finding made elsewhere."""
        if self.admit(finding.invariant, finding.severity):
            self.kept.append(finding)

    def take_all(self, findings: Iterable[Finding]) -> None:
        """Note many."""
        for finding in findings:
            self.take(finding)

    def take_over(self, others: "Findings") -> None:
        """Note those that others kept, and count those that they counted."""
        if not others.counts:
            return
        self.take_all(others.kept)
        kept = Counter((finding.invariant, finding.severity) for finding in others.kept)
        for kind, count in others.counts.items():
            self.count_more(count - kept[kind], *kind)

    @property
    def error_count(self) -> int:
        """How many things are wrong, not only worth knowing."""
        counts = self.counts.items()
        return sum(count for (_invariant, severity), count in counts if severity is Severity.ERROR)

    def __iter__(self) -> Iterator[Finding]:
        """Go through those that were kept, then say of which there were more."""
        yield from self.kept
        for (invariant, severity), count in self.counts.items():
            if count > KEPT_PER_INVARIANT:
                more = count - KEPT_PER_INVARIANT
                yield Finding(
                    invariant, severity, f"and {more} more findings of invariant {invariant}"
                )
