"""Who is a clone of which snapshot."""

from collections.abc import Iterable, Mapping

from blobstore.units import BlobId


class Clones:
    """The clones of every snapshot, ascending.

    They are kept in tuples: stores have many thousand snapshots with one clone
    each, and the collector of garbage looks at lists again and again.
    """

    __slots__ = ("_clones",)

    def __init__(self, parents: Mapping[BlobId, BlobId] | None = None) -> None:
        """Take the parent of every clone."""
        self._clones: dict[BlobId, tuple[BlobId, ...]] = {}
        several: dict[BlobId, list[BlobId]] = {}
        for child, parent in (parents or {}).items():
            if parent in several:
                several[parent].append(child)
            elif parent in self._clones:
                several[parent] = [*self._clones[parent], child]
            else:
                self._clones[parent] = (child,)
        for parent, children in several.items():
            self._clones[parent] = tuple(sorted(children))

    def of(self, blob_id: BlobId) -> tuple[BlobId, ...]:
        """Return the clones of a blob."""
        return self._clones.get(blob_id, ())

    def all(self) -> Iterable[tuple[BlobId, tuple[BlobId, ...]]]:
        """Return (snapshot, its clones) for all that have some."""
        return self._clones.items()

    def add(self, parent: BlobId, child: BlobId) -> None:
        """Note a new clone."""
        self._clones[parent] = tuple(sorted((*self.of(parent), child)))

    def remove(self, parent: BlobId, child: BlobId) -> None:
        """Forget a clone that is one no more."""
        left = tuple(clone for clone in self.of(parent) if clone != child)
        if left:
            self._clones[parent] = left
        else:
            self._clones.pop(parent, None)

    def forget(self, blob_id: BlobId) -> None:
        """Forget a snapshot that is gone."""
        self._clones.pop(blob_id, None)
