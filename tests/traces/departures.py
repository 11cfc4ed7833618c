"""What follows from the rows of docs/COMPATIBILITY.md for the blobs of a trace, line by line.

A row says where this project does something else. From there on its blobs and the original's
are apart: these classes keep which blobs, in what, and until when.
"""

from collections.abc import Iterable
from dataclasses import dataclass


class Departed:
    """Blobs whose state may differ here, and where: all of the original's ids.

    A shrink that was not synced is undone in the original by growing again,
    clusters, content and all; here it is final. What was never written of a new
    cluster shows zeroes here, and what the cluster held before there, if it was
    given back uncleared. An empty blob whose extent table does not fit behind
    its attributes forgets there, when it is opened, that it had one. Snapshots
    and clones inherit all that. `unwritten` counts in io units.
    """

    def __init__(self, *, units_per_cluster: int, unmaps: bool) -> None:
        self.sizes: dict[int, int] = {}
        self.shrunk: set[int] = set()
        self.regrown: set[int] = set()
        self.tableless: set[int] = set()
        self.uncleared: set[int] = set()
        self.unwritten: dict[int, dict[int, str]] = {}
        self._units = units_per_cluster
        self._unmaps = unmaps
        self._is_stale = False
        self._groups = (self.shrunk, self.regrown, self.tableless, self.uncleared)

    def create(
        self, blob: int, *, count: int, thin: bool, clears: bool, origin: int | None
    ) -> None:
        for group in self._groups:
            group.discard(blob)
        self.sizes[blob] = count
        self.unwritten[blob] = {}
        if not clears:
            self.uncleared.add(blob)
        if origin is not None:
            self.adopt(blob, origin)
        elif not thin:
            self.mark(blob, range(count))

    def adopt(self, blob: int, parent: int) -> None:
        """Let a blob read what its parent reads."""
        self.unwritten[blob] = self.unwritten[blob] | self.unwritten[parent]
        for group in self._groups:
            group.update({blob} if parent in group else ())

    def release(self, blob: int) -> None:
        """Take note that a blob has given back clusters."""
        if not self._unmaps or blob in self.uncleared:
            self._is_stale = True

    def forget(self, blob: int) -> None:
        self.release(blob)
        for group in self._groups:
            group.discard(blob)

    def resize(self, blob: int, count: int, *, thin: bool) -> None:
        added = range(self.sizes[blob], count)
        if count < self.sizes[blob]:
            self.release(blob)
            self.shrunk.add(blob)
            end = count * self._units
            self.unwritten[blob] = {at: r for at, r in self.unwritten[blob].items() if at < end}
        elif added and blob in self.shrunk:
            self.regrown.add(blob)
            self._mark_units(blob, added, "shrink-is-final")
        elif not thin:
            self.mark(blob, added)
        self.sizes[blob] = count

    def mark(self, blob: int, clusters: Iterable[int]) -> None:
        """Take note of new clusters; they can show something only if one was left uncleared."""
        if self._is_stale:
            self._mark_units(blob, clusters, "zeroed-clusters")

    def _mark_units(self, blob: int, clusters: Iterable[int], row: str) -> None:
        size = self._units
        units = (unit for at in clusters for unit in range(at * size, (at + 1) * size))
        self.unwritten[blob] = self.unwritten[blob] | dict.fromkeys(units, row)

    def write(self, blob: int, units: range) -> None:
        """Take note that a range holds the same again."""
        for unit in units:
            self.unwritten[blob].pop(unit, None)

    def unmap(self, blob: int, units: range) -> None:
        """Take note of an unmap: where the device does nothing, the data stay in the original."""
        self.release(blob)
        if self._unmaps:
            self.write(blob, units)
        else:
            self.unwritten[blob].update(dict.fromkeys(units, "zeroed-clusters"))

    def row_of(self, blob: int, units: range) -> str | None:
        """Name why something in a range may be different here."""
        return next((row for unit, row in self.unwritten[blob].items() if unit in units), None)


@dataclass(frozen=True)
class Apart:
    """How many more metadata pages than the original's may be in use here: this many, or fewer.

    What is not known of the original's blobs makes it a range.
    """

    least: int = 0
    most: int = 0

    @classmethod
    def between(cls, one: int, other: int = 0) -> "Apart":
        return cls(min(one, other), max(one, other))

    def __add__(self, other: "Apart") -> "Apart":
        return Apart(self.least + other.least, self.most + other.most)


class Unsynced:
    """Blobs whose changes are on the device here and still wait for a sync in the original.

    Here each write syncs its blob (the row `write-through-syncs`), with all that was changed
    before: attributes, its size, the read-only flag. In the original these wait, so its chain is
    still the old one, and what a shrink cut off is still in use. `chains` are the lengths of the
    chains that have changes to wait for, `written` those blobs that a write has synced here
    since, with the extent pages that it released.
    """

    def __init__(self) -> None:
        self.chains: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.read_only: set[int] = set()

    def change(self, blob: int, chain: int, *, is_read_only: bool) -> None:
        self.chains.setdefault(blob, chain)
        if is_read_only:
            self.read_only.add(blob)

    def write(self, blob: int, released: int) -> None:
        if blob in self.chains:
            self.written[blob] = self.written.get(blob, 0) + released

    def sync(self, blob: int) -> None:
        self.chains.pop(blob, None)
        self.written.pop(blob, None)
        self.read_only.discard(blob)

    def sync_all(self) -> None:
        for blob in list(self.chains):
            self.sync(blob)

    def has_old_chain(self, blob: int, length: int) -> bool:
        """Tell whether the original may still have a chain of this length."""
        return blob in self.written and self.chains[blob] == length
