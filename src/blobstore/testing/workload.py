"""Workloads: scripts of operations on a tiny store, run on a recording disk.

A workload knows what it was promised: for every event of the record there is
an `Expectation` of what a crash just then may leave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from blobstore.blob import attributes, resize
from blobstore.blob import write as blob_write
from blobstore.errors import NoSpaceError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.load_store import load
from blobstore.metadata.store_state import StoreState
from blobstore.store.blobs import BlobOptions, create_blob
from blobstore.store.delete import delete_blob
from blobstore.store.grow import grow_closed, grow_open
from blobstore.store.inflate import decouple, inflate
from blobstore.store.init import Clear, InitOptions, init_store
from blobstore.store.lifecycle import flush_store, set_super_blob, unload
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.store.relations import set_parent
from blobstore.store.rollback import roll_back
from blobstore.store.snapshots import create_clone, create_snapshot
from blobstore.testing.alone import run_alone
from blobstore.testing.expectation import (
    BLOCK,
    ZERO_BLOCK,
    Expectation,
    ExpectedBlob,
    Meta,
    either,
)
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.units import BlobId

CLUSTER: Final = 4096
BLOCKS_PER_CLUSTER: Final = CLUSTER // BLOCK
MD_PAGES: Final = 24
DATA_CLUSTERS: Final = 12
DISK_SIZE: Final = (4 + MD_PAGES + DATA_CLUSTERS) * CLUSTER

Step = tuple[Any, ...]
"""(operation, argument, ...); blobs are named by the order of their creation."""


@dataclass(frozen=True, slots=True)
class Span:
    """The events of one operation, and what may be found during and after it."""

    name: str
    start: int
    end: int
    during: Expectation
    after: Expectation


@dataclass(slots=True)
class Record:
    """A run: the disk before it, what it wrote, and what was promised when."""

    base: bytes
    disk: SimulatedDisk
    spans: list[Span] = field(default_factory=list)

    def expectation_at(self, event: int) -> tuple[str, Expectation]:
        """Return the operation and the promise when the event with that number is in flight."""
        for span in self.spans:
            if event < span.end:
                return span.name, span.during
        return self.spans[-1].name, self.spans[-1].after


class Workload:
    """Runs steps on a disk, and keeps the promise for each of them."""

    def __init__(self, disk: SimulatedDisk, expectation: Expectation | None = None) -> None:
        self.disk = disk
        self.record = Record(bytes(disk.content), disk)
        self.expected = expectation.copy() if expectation else Expectation(may_be_missing=True)
        self.store: StoreState | None = None
        self.open: dict[str, BlobState] = {}
        self.ids: dict[str, BlobId] = {}
        self._counter = 0

    def run(self, steps: Sequence[Step]) -> Record:
        """Run all steps."""
        for step in steps:
            self.step(*step)
        return self.record

    def step(self, name: str, *arguments: Any) -> None:
        """Run one step; ENOSPC leaves everything as it was."""
        start = len(self.disk.events)
        before = self.expected.copy()
        handler: Callable[..., None] = getattr(self, f"_do_{name}")
        try:
            handler(*arguments)
        except NoSpaceError:
            self.expected = before.copy()
        during = either(before, self.expected)
        end = len(self.disk.events)
        self.record.spans.append(Span(name, start, end, during, self.expected.copy()))

    # The store

    def _do_init(self, clear: str = "unmap") -> None:
        options = InitOptions(cluster_size=CLUSTER, md_pages=MD_PAGES, clear=Clear(clear))
        self.store = run_alone(init_store(self.disk.traits, options), self.disk)
        self.expected = Expectation(sizes={self.disk.traits.size_bytes})

    def _do_load(self) -> None:
        self.store = run_alone(load(self.disk.traits), self.disk)
        self.open.clear()

    def _do_unload(self) -> None:
        for name in list(self.open):
            self._do_close(name)
        run_alone(unload(self._loaded), self.disk)
        self.expected.flushed()
        self.store = None

    def _do_flush(self) -> None:
        run_alone(flush_store(self._loaded), self.disk)
        self.expected.flushed()

    def _do_super(self, name: str | None) -> None:
        blob_id = None if name is None else self.ids[name]
        run_alone(set_super_blob(self._loaded, blob_id), self.disk)
        self.expected.super_blobs = {blob_id}

    def _do_grow_open(self, clusters: int) -> None:
        self._extend(clusters)
        run_alone(grow_open(self._loaded, len(self.disk.content)), self.disk)
        self.expected.sizes = {len(self.disk.content)}

    def _do_grow_closed(self, clusters: int) -> None:
        self._extend(clusters)
        run_alone(grow_closed(self.disk.traits), self.disk)
        self.expected.sizes = {len(self.disk.content)}

    def _extend(self, clusters: int) -> None:
        self.disk.content += bytes(clusters * CLUSTER)
        self.disk.traits = replace(self.disk.traits, size_bytes=len(self.disk.content))

    # Blobs

    def _do_create(self, name: str, clusters: int, kind: str = "", xattr_size: int = 0) -> None:
        xattrs = {"x": self._bytes(xattr_size)} if xattr_size else {}
        options = BlobOptions(
            cluster_count=clusters,
            thin="thin" in kind,
            extent_table="runs" not in kind,
            xattrs=xattrs,
        )
        blob_id = run_alone(create_blob(self._loaded, options), self.disk)
        self.ids[name] = blob_id
        expected = ExpectedBlob([Meta(0)])
        expected.change(Meta(clusters, tuple(xattrs.items())), blocks_per_cluster=8)
        expected.flushed()
        self.expected.blobs[blob_id] = expected

    def _do_open(self, name: str) -> None:
        self.open[name] = run_alone(open_blob(self._loaded, self.ids[name]), self.disk)

    def _do_close(self, name: str) -> None:
        blob = self.open.pop(name)
        was_dirty = blob.is_dirty
        run_alone(close_blob(self._loaded, blob), self.disk)
        if was_dirty:
            self.expected.blobs[blob.blob_id].flushed()

    def _do_delete(self, name: str) -> None:
        if name in self.open:
            self._do_close(name)
        run_alone(delete_blob(self._loaded, self.ids[name]), self.disk)
        self.note_deleted(name)

    def note_deleted(self, name: str) -> None:
        """Expect a blob no more."""
        blob_id = self.ids[name]
        self._hand_over(blob_id)
        del self.expected.blobs[blob_id], self.ids[name]
        if blob_id in self.expected.super_blobs:
            self.expected.super_blobs = {None}

    def _hand_over(self, snapshot_id: int) -> None:
        """Expect the only clone of a deleted snapshot below that one's parent."""
        parent = self.expected.blobs[snapshot_id].meta.parent
        for expected in self.expected.blobs.values():
            if expected.meta.parent == snapshot_id:
                expected.versions.append(replace(expected.meta, parent=parent))
                expected.flushed()

    def _do_sync(self, name: str) -> None:
        run_alone(blob_write.flush_blob(self._loaded, self._blob(name)), self.disk)
        self.expected.blobs[self.ids[name]].flushed()

    def _do_xattr(self, name: str, key: str, size: int) -> None:
        value = self._bytes(size)
        run_alone(attributes.set_xattr(self._loaded, self._blob(name), key, value), self.disk)
        self._change_meta(name, xattrs=self._blob(name).xattrs)

    def _do_remove_xattr(self, name: str, key: str) -> None:
        run_alone(attributes.remove_xattr(self._loaded, self._blob(name), key), self.disk)
        self._change_meta(name, xattrs=self._blob(name).xattrs)

    def _do_read_only(self, name: str) -> None:
        run_alone(attributes.set_read_only(self._loaded, self._blob(name)), self.disk)
        self._change_meta(name, read_only=True)

    def _do_resize(self, name: str, clusters: int) -> None:
        run_alone(resize.resize(self._loaded, self._blob(name), clusters), self.disk)
        before = self.expected.blobs[self.ids[name]].meta.cluster_count
        self._change_meta(name, cluster_count=clusters)
        self._show_parent(name, before * BLOCKS_PER_CLUSTER)

    def _do_write(self, name: str, block: int, count: int) -> None:
        data = b"".join(self._bytes(BLOCK) for _ in range(count))
        self._note_blocks(name, block, [data[i * BLOCK : (i + 1) * BLOCK] for i in range(count)])
        core = blob_write.write(self._loaded, self._blob(name), memoryview(data), block * BLOCK)
        run_alone(core, self.disk)

    def _do_zero(self, name: str, block: int, count: int) -> None:
        self._note_blocks(name, block, [ZERO_BLOCK] * count)
        core = blob_write.write_zeroes(self._loaded, self._blob(name), block * BLOCK, count * BLOCK)
        run_alone(core, self.disk)

    def _do_unmap(self, name: str, block: int, count: int) -> None:
        clusters, has_parent = self._blob(name).clusters, self._blob(name).parent is not None
        for at in range(block, block + count):
            if not has_parent or clusters.get(at // BLOCKS_PER_CLUSTER):
                self._note_blocks(name, at, [ZERO_BLOCK])
        core = blob_write.unmap(self._loaded, self._blob(name), block * BLOCK, count * BLOCK)
        run_alone(core, self.disk)

    # Relations

    def _do_snapshot(self, name: str, snapshot: str) -> None:
        blob = self._blob(name)
        snapshot_id = run_alone(create_snapshot(self._loaded, blob, {}), self.disk)
        self.ids[snapshot] = snapshot_id
        expected = self.expected.blobs[blob.blob_id]
        expected.flushed()
        copy = expected.copy()
        copy.versions = [replace(expected.meta, xattrs=(), read_only=True)]
        self.expected.blobs[snapshot_id] = copy
        expected.versions = [replace(expected.meta, parent=snapshot_id)]

    def _do_clone(self, parent: str, name: str) -> None:
        parent_id = self.ids[parent]
        clone_id = run_alone(create_clone(self._loaded, parent_id, {}), self.disk)
        self.ids[name] = clone_id
        copy = self.expected.blobs[parent_id].copy()
        copy.versions = [replace(copy.meta, xattrs=(), read_only=False, parent=parent_id)]
        self.expected.blobs[clone_id] = copy

    def _do_inflate(self, name: str) -> None:
        run_alone(inflate(self._loaded, self._blob(name)), self.disk)
        self._new_parent(name, None)

    def _do_decouple(self, name: str) -> None:
        blob = self._blob(name)
        assert blob.parent is not None
        grandparent = blob.parent.parent_id
        run_alone(decouple(self._loaded, blob), self.disk)
        self._new_parent(name, grandparent)

    def _do_set_parent(self, name: str, parent: str) -> None:
        blob, parent_id = self._blob(name), self.ids[parent]
        owned = [blob.clusters.get(index) != 0 for index in range(blob.clusters.count)]
        run_alone(set_parent(self._loaded, blob, parent_id), self.disk)
        source = self.expected.blobs[parent_id].current
        expected = self.expected.blobs[blob.blob_id]
        for at, block in enumerate(source):
            if not owned[at // BLOCKS_PER_CLUSTER]:
                expected.write(at, block)
        self._new_parent(name, parent_id)

    def _do_rollback(self, name: str, snapshot: str) -> None:
        blob, snapshot_id = self._blob(name), self.ids[snapshot]
        run_alone(roll_back(self._loaded, blob, snapshot_id), self.disk)
        source, expected = self.expected.blobs[snapshot_id], self.expected.blobs[blob.blob_id]
        self._change_meta(name, cluster_count=source.meta.cluster_count, parent=snapshot_id)
        for at, block in enumerate(source.current):
            expected.write(at, block)
        expected.flushed()

    def _new_parent(self, name: str, parent: int | None) -> None:
        expected = self.expected.blobs[self.ids[name]]
        expected.versions.append(replace(expected.meta, parent=parent))
        expected.flushed()

    # Helpers

    @property
    def _loaded(self) -> StoreState:
        assert self.store is not None
        return self.store

    def _blob(self, name: str) -> BlobState:
        if name not in self.open:
            self._do_open(name)
        return self.open[name]

    def _bytes(self, size: int) -> bytes:
        """Return bytes that no other call returns."""
        self._counter += 1
        return self._counter.to_bytes(4, "big") * (size // 4) + b"~" * (size % 4)

    def _change_meta(self, name: str, **changes: Any) -> None:
        if "xattrs" in changes:
            changes["xattrs"] = tuple(changes["xattrs"].items())
        expected = self.expected.blobs[self.ids[name]]
        expected.change(replace(expected.meta, **changes), blocks_per_cluster=BLOCKS_PER_CLUSTER)

    def _show_parent(self, name: str, first: int) -> None:
        """Expect a clone that has grown to show its parent's blocks again."""
        expected = self.expected.blobs[self.ids[name]]
        parent = expected.meta.parent
        if parent is not None:
            shown = self.expected.blobs[parent].current[: len(expected.current)]
            for at, block in list(enumerate(shown))[first:]:
                expected.write(at, block)

    def _note_blocks(self, name: str, first: int, blocks: Sequence[bytes]) -> None:
        expected = self.expected.blobs[self.ids[name]]
        for step, block in enumerate(blocks):
            expected.write(first + step, block)


def new_disk(*, sector: bool, fill: int = 0xDD, unmap_zeroes: bool = False) -> SimulatedDisk:
    """Return a disk for a tiny store, full of bytes that no reader may ever get."""
    return SimulatedDisk(
        bytes([fill]) * DISK_SIZE,
        atomic_write_size=512 if sector else 4096,
        block_size=512 if sector else 4096,
        unmap_zeroes=unmap_zeroes,
    )
