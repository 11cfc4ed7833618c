"""What the tests of the checklist work on: a device, a store on it, and how blobs are laid out.

The original runs its tests in five configurations, two of them on a device that
copies by itself. No device here does: there are run-length extents, extent
tables, and extent tables in metadata pages of 16 KiB.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest

from blobstore import Blob, BlobInfo, Blobstore, BlobstoreError
from blobstore.format.descriptors import split_descriptors
from blobstore.format.geometry import root_of
from blobstore.format.page import MetadataPage
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.operations import Buffer
from blobstore.testing.internals import core_of
from blobstore.units import BlobId, PageIndex
from tests.replay import COMPACT, SECTOR, ReplayDevice, pattern

BLOCK: Final = 4096
CLUSTER: Final = 65536
SIZE: Final = 8 << 20


@dataclass(frozen=True)
class Configuration:
    """How blobs are laid out."""

    name: str
    extent_table: bool
    page_size: int = 4096
    atomic_write_size: int = SECTOR


CONFIGURATIONS: Final = (
    Configuration("runs", extent_table=False),
    Configuration("table", extent_table=True),
    Configuration("table_16k", extent_table=True, page_size=16384, atomic_write_size=COMPACT),
)


class CountingDevice(ReplayDevice):
    """A replay device that notes every request: its place and its length in bytes."""

    def __init__(self, size: int = SIZE, **traits: Any) -> None:
        super().__init__(size, BLOCK, **traits)
        self.log: list[tuple[str, int, int]] = []
        self.during_next_write: Callable[[], None] | None = None

    def count(self, kind: str, *, first: int = 0) -> int:
        """Return how many bytes of the kind were asked for, from byte `first` on."""
        return sum(length for name, at, length in self.log if name == kind and at >= first)

    def places(self, kind: str) -> set[int]:
        """Return which bytes were touched, in blocks."""
        ranges = [(at, length) for name, at, length in self.log if name == kind]
        return {block for at, n in ranges for block in range(at // BLOCK, (at + n) // BLOCK)}

    def read(self, offset: int, length: int) -> bytes:
        self.log.append(("read", offset, length))
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Any) -> None:
        self.log.append(("read", offset, sum(map(len, buffers))))
        super().read_into(offset, buffers)

    def write(self, offset: int, buffers: Any) -> None:
        act, self.during_next_write = self.during_next_write, None
        if act is not None:
            act()
        parts: list[Buffer] = list(buffers)
        self.log.append(("write", offset, sum(map(len, parts))))
        super().write(offset, parts)

    def unmap(self, offset: int, length: int) -> None:
        self.log.append(("unmap", offset, length))
        super().unmap(offset, length)


@dataclass
class Bench:
    """A device, and what is done to it again and again."""

    configuration: Configuration
    size: int = SIZE
    device: CountingDevice = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.new_device()

    def new_device(self, **traits: Any) -> CountingDevice:
        atomic = self.configuration.atomic_write_size
        return CountingDevice(self.size, **{"atomic_write_size": atomic, **traits})

    def create(self, **options: Any) -> Blobstore:
        """Make a store on the device."""
        defaults = {"cluster_size": CLUSTER, "md_page_size": self.configuration.page_size}
        return Blobstore.create(self.device, overwrite=True, **{**defaults, **options})

    def load(self, **options: Any) -> Blobstore:
        """Open the store, as the last one left it: closed, or not."""
        return Blobstore.open(self.device, **options)

    def reload(self, store: Blobstore) -> Blobstore:
        store.close()
        return self.load()

    def blob(self, store: Blobstore, clusters: int = 0, **options: Any) -> Blob:
        """Make a blob of so many clusters, laid out as the configuration says."""
        table = self.configuration.extent_table
        return store.create_blob(clusters * store.cluster_size, extent_table=table, **options)

    def root(self, store: Blobstore, blob_id: int) -> MetadataPage:
        page = root_of(BlobId(blob_id))
        return MetadataPage.decode(self.page(store, page), at=page)

    def page(self, store: Blobstore, page: int) -> bytes:
        return self.device.read(core_of(store).geometry.page_offset(PageIndex(page)), 4096)

    def kinds(self, store: Blobstore, blob_id: int) -> list[int]:
        """Return the kinds of descriptors in a blob's root."""
        body = self.root(store, blob_id).body
        return [kind for kind, _content in split_descriptors(body, place="root") if kind]

    def super_block(self) -> SuperBlock:
        return SuperBlock.decode(self.device.read(0, SUPER_BLOCK_SIZE))

    def change_super_block(self, **changes: Any) -> None:
        self.device.write(0, [replace(self.super_block(), **changes).encode()])

    def check(self) -> None:
        """Compare the masks of the store on the device with what its blobs own, if there is one."""
        self.device.changes_left = self.device.reads_left = None
        try:
            store = self.load(read_only=True)
        except BlobstoreError:
            return
        blobs = [found for found in store.list_blobs() if found.error is None]
        if len(blobs) == len(store.blob_ids()):
            pages = [page for blob in blobs for page in pages_of(blob)]
            clusters = [cluster for blob in blobs for cluster in clusters_of(blob)]
            assert len(set(pages)) == len(pages)
            assert len(set(clusters)) == len(clusters)
            assert core_of(store).pages.used.count() == len(pages)
            metadata = core_of(store).geometry.md_clusters
            assert core_of(store).clusters.used.count() == len(clusters) + metadata
        store.close()


def pages_of(blob: BlobInfo) -> list[int]:
    return [*blob.metadata_pages, *(page for page in blob.extent_pages if page)]


def clusters_of(blob: BlobInfo) -> list[int]:
    return [first + step for first, count in blob.extents if first for step in range(count)]


def used_pages(store: Blobstore) -> int:
    """Return how many metadata pages are in use, those not counted that wait for a flush."""
    return core_of(store).pages.used.count() - core_of(store).pages.pending_count


def data(seed: int, length: int, offset: int = 0) -> bytes:
    return pattern(seed, length, offset=offset)


@contextmanager
def fails(errno: int) -> Iterator[None]:
    """Expect an error of the package with this number."""
    with pytest.raises(BlobstoreError) as caught:
        yield
    assert caught.value.errno == errno, caught.value
