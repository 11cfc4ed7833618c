"""The relation between snapshots and their clones."""

from collections.abc import Iterator, Mapping

from blobstore.units import BlobId


class Clones:
    """The clones of every snapshot, ascending.

    One that is the only one is kept as it is, several in a tuple: stores have many thousand
    snapshots with one clone each, and the collector of garbage goes through tuples and lists.
    """

    __slots__ = ("_clones",)

    def __init__(self, parents: Mapping[BlobId, BlobId] | None = None) -> None:
        """Take the parent of every clone."""
        parents = parents or {}
        self._clones: dict[BlobId, BlobId | tuple[BlobId, ...]] = {}
        self._clones.update(zip(parents.values(), parents, strict=True))
        if len(self._clones) < len(parents):
            self._add_several(parents)

    def _add_several(self, parents: Mapping[BlobId, BlobId]) -> None:
        """Take the clones that the last one of the same snapshot came after."""
        others: dict[BlobId, list[BlobId]] = {}
        for child, parent in parents.items():
            if self._clones[parent] != child:
                others.setdefault(parent, []).append(child)
        for parent, children in others.items():
            self._clones[parent] = tuple(sorted((*children, *self.of(parent))))

    def of(self, blob_id: BlobId) -> tuple[BlobId, ...]:
        """Return the clones of a blob."""
        found = self._clones.get(blob_id, ())
        return found if isinstance(found, tuple) else (found,)

    def all(self) -> Iterator[tuple[BlobId, tuple[BlobId, ...]]]:
        """Yield (snapshot, its clones) for all that have some."""
        for blob_id in self._clones:
            yield blob_id, self.of(blob_id)

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
