"""A small sound store with a blob of every kind, as bytes: clean, and as if it had not been closed.

Its clusters hold two pages each, and the metadata ends in the middle of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Final

from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.device.memory import MemoryDevice
from blobstore.errors import BlobstoreError
from blobstore.units import BlobId
from tests.proof.corruptions.image import StoreImage

CLUSTER: Final = 8192
CLUSTER_COUNT: Final = 100
METADATA_PAGES: Final = 63
THIN_CLUSTERS: Final = 1030
EXTERNAL_ID: Final = b"outside"
LAYOUTS: Final = (512, 4096)
"""The atomic write sizes, one for each layout of a root."""

_LARGEST: Final = THIN_CLUSTERS * CLUSTER
"""No blob is larger, but those that are salvaged from nonsense."""

_ZEROES: Final = bytes(CLUSTER)


class ImageDevice(MemoryDevice):
    """A device in memory that can be read after it was closed."""

    def __init__(self, content: bytes, *, atomic_write_size: int) -> None:
        super().__init__(len(content), atomic_write_size=atomic_write_size)
        self._content[:] = content
        self._last = b""

    @property
    def image(self) -> bytes:
        """All of its bytes."""
        return bytes(self._content) or self._last

    def close(self) -> None:
        self._last = self.image
        super().close()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must not change of a blob: content, attributes, and whether it can be changed."""

    content: str
    xattrs: Mapping[str, bytes]
    read_only: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """A sound store, and its blobs by name."""

    clean: bytes
    dirty: bytes
    names: Mapping[str, BlobId]

    def image(self, *, dirty: bool = False) -> StoreImage:
        """Return a copy to break."""
        return StoreImage.of(self.clean, self.dirty if dirty else self.clean, self.names)


@cache
def sample(atomic_write_size: int) -> Sample:
    """Make the store on a device of that atomicity; 512 and 4096 give the two layouts."""
    device = ImageDevice(bytes(CLUSTER * CLUSTER_COUNT), atomic_write_size=atomic_write_size)
    with Blobstore.create(device, cluster_size=CLUSTER, md_pages=METADATA_PAGES) as store:
        store.register_external(EXTERNAL_ID, external())
        names = _single_blobs(store) | _family(store)
        store.set_super_blob(names["entry"])
        store.flush()
        dirty = device.image
    return Sample(device.image, dirty, names)


def external() -> MemoryDevice:
    """Return the external snapshot."""
    return MemoryDevice(3 * CLUSTER, fill=0xE5)


def fingerprints(image: bytes, *, atomic_write_size: int) -> dict[BlobId, Fingerprint]:
    """Return what the blobs of a store hold, but for those that do not open or are too large."""
    device = ImageDevice(image, atomic_write_size=atomic_write_size)
    found: dict[BlobId, Fingerprint] = {}
    with Blobstore.open(device, read_only=True, force=True) as store:
        store.register_external(EXTERNAL_ID, external())
        for blob_id in store.blob_ids():
            try:
                with store.open_blob(blob_id) as blob:
                    if blob.size <= _LARGEST:
                        found[blob_id] = _fingerprint(blob)
            except BlobstoreError:
                continue
    return found


def _fingerprint(blob: Blob) -> Fingerprint:
    content = sha256(b"%d" % blob.size)
    at = blob.next_data(0)
    while at is not None:
        end = blob.next_hole(at)
        for offset in range(at, end, CLUSTER):
            data = blob.read(CLUSTER, offset)
            if data != _ZEROES:
                content.update(b"%d" % offset + data)
        at = blob.next_data(end) if end < blob.size else None
    return Fingerprint(content.hexdigest(), dict(blob.xattrs), blob.info.read_only)


def pattern(seed: int, clusters: int = 1) -> bytes:
    """Return bytes that are found nowhere else."""
    parts = (sha256(b"%d %d" % (seed, n)).digest() for n in range(clusters * CLUSTER // 32))
    return b"".join(parts)


def _single_blobs(store: Blobstore) -> dict[str, BlobId]:
    """Make blobs that are nobody's relations."""
    names: dict[str, BlobId] = {}

    def make(
        name: str,
        clusters: int,
        writes: Mapping[int, int],
        *,
        thin: bool = False,
        extent_table: bool = True,
    ) -> None:
        size, xattrs = clusters * CLUSTER, {"name": name.encode()}
        with store.create_blob(size, thin=thin, extent_table=extent_table, xattrs=xattrs) as blob:
            names[name] = blob.id
            for at, count in writes.items():
                blob.write(pattern(1000 * len(names) + at, count), at * CLUSTER)

    make("entry", 1, {0: 1})
    make("runs", 4, {0: 4}, extent_table=False)
    make("thick", 5, {0: 5})
    make("sparse", 6, {1: 1, 4: 2}, extent_table=False, thin=True)
    make("thin", THIN_CLUSTERS, {1: 1, 1025: 2}, thin=True)
    make("attributed", 3, {0: 2})
    make("sealed", 2, {0: 2})
    with store.open_blob(names["attributed"]) as blob:
        for letter in "abcd":
            blob.set_xattr(letter, pattern(ord(letter))[:2500])
    with store.open_blob(names["sealed"]) as blob:
        blob.set_read_only()
    with store.create_blob(
        3 * CLUSTER, xattrs={"name": b"external"}, external_snapshot=EXTERNAL_ID
    ) as blob:
        names["external"] = blob.id
        blob.write(pattern(7), CLUSTER)
    return names


def _family(store: Blobstore) -> dict[str, BlobId]:
    """Make two snapshots in a chain; the later one has two clones."""
    with store.create_blob(4 * CLUSTER, xattrs={"name": b"origin"}) as origin:
        origin.write(pattern(11, 4))
        with origin.snapshot(xattrs={"name": b"old"}) as old:
            origin.write(pattern(12), CLUSTER)
            with origin.snapshot(xattrs={"name": b"middle"}) as middle:
                origin.write(pattern(13, 2), 2 * CLUSTER)
                with middle.clone(xattrs={"name": b"clone"}) as clone:
                    clone.write(pattern(14), 0)
                    return {
                        "origin": origin.id, "old": old.id, "middle": middle.id, "clone": clone.id
                    }  # fmt: skip
