"""The cluster map of a blob that has one leaf, as it was read: most ancestors are never changed.

Its leaf stays packed until somebody wants to have it. An array in a list would be two
more objects for each of many thousand ancestors, and both are what the collector of
garbage goes through.
"""

import struct
from array import array
from typing import Final

from blobstore.alloc.cluster_map import ClusterMap
from blobstore.alloc.leaves import UNALLOCATED, Leaves

_ENTRY: Final = struct.Struct("<I")


class PackedMap(ClusterMap):
    """The clusters of one leaf: `packed` as they are on disk, or None once they are unpacked."""

    __slots__ = ("packed",)

    packed: bytes | None

    def __init__(self, count: int, allocated_count: int, packed: bytes) -> None:
        super().__init__(count)
        self.allocated_count = allocated_count
        self.packed = packed

    def __getattr__(self, name: str) -> Leaves:
        if name != "leaves" or self.packed is None:
            return super().__getattr__(name)
        self.leaves, self.packed = [array("I", self.packed)], None
        return self.leaves

    def get(self, index: int) -> int:
        """Return the cluster at `index`, or 0; who reads looks for it in every ancestor."""
        if self.packed is None:
            return super().get(index)
        cluster: int = _ENTRY.unpack_from(self.packed, index * _ENTRY.size)[0]
        return cluster

    def allocated(self) -> list[int]:
        """Return all clusters that the blob owns, in the order of the blob."""
        if self.packed is None:
            return super().allocated()
        clusters: list[int] = memoryview(self.packed).cast("I").tolist()
        if self.allocated_count == self.count:
            return clusters
        return [cluster for cluster in clusters if cluster != UNALLOCATED]
