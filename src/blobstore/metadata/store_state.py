"""One store in memory: its pools, its open blobs, and what waits for a flush."""

from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from bitarray import bitarray

from blobstore.alloc.leaves import LEAF_MASK, LEAF_SHIFT, LEAF_SIZE, NO_LEAVES, SparseLeaves
from blobstore.alloc.pool import Pool
from blobstore.alloc.reservation import Reservations
from blobstore.epochs import Epochs
from blobstore.errors import BlobstoreError, ClosedError, PoisonedError, ReadOnlyError
from blobstore.format.geometry import Geometry
from blobstore.format.root import Layout
from blobstore.format.super_block import SuperBlock
from blobstore.locks import Mutex, SharedFlush
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.clones import Clones
from blobstore.metadata.page_reader import PageReader
from blobstore.operations import Batch, Checkpoint, ExternalSource, Flush, Operation, Wakeup
from blobstore.units import BlobId, PageIndex

ENOMEM: Final = 12
ENOSPC: Final = 28

_PAGES_REMEDY: Final = (
    "delete blobs or snapshots, or copy to a store that was made with more (`init --md-pages`)"
)

_KEPT_BUFFER_BYTES: Final = 4 << 20

_MOST_INHERITED_LEAVES: Final = (32 << 20) // (4 * LEAF_SIZE)


@dataclass(frozen=True, slots=True)
class Deferred:
    """Writes that are deferred to the next flush, and what to do when it is done."""

    operations: Sequence[Operation[Any]]
    then: Callable[[], None]


@dataclass(frozen=True, slots=True)
class DeviceTraits:
    """What the core must know of the device, taken once when it is opened.

    `atomic_write_size` is the largest aligned write that a power cut leaves
    whole; `unmap_zeroes` tells that an unmapped range is sure to read as zeroes;
    `is_sparse` that writing can need space that the host has to be asked for.
    """

    size_bytes: int
    block_size: int = 512
    physical_block_size: int = 512
    atomic_write_size: int = 512
    unmap_zeroes: bool = False
    is_sparse: bool = False

    @property
    def layout(self) -> Layout:
        """The layout in which root pages are written on this device."""
        return Layout.COMPACT if self.atomic_write_size >= 4096 else Layout.SECTOR


@dataclass(slots=True, eq=False)
class RecoveryPlan:
    """What loading decided and the device does not say yet.

    `changed` are blobs to rewrite, `deleted` are half-made or half-deleted
    roots to erase, `copies` stale pages that could be taken for a root's copy,
    `restored` the content of roots to be rewritten from a copy.
    """

    changed: dict[BlobId, BlobState] = field(default_factory=dict)
    deleted: list[PageIndex] = field(default_factory=list)
    copies: list[PageIndex] = field(default_factory=list)
    restored: dict[PageIndex, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.changed or self.deleted or self.copies or self.restored)


class StoreState:
    """A loaded store, as the core works on it.

    `super_block` is the one on the device; `bstype` goes into the next one.
    `exclusive` names the operation that a blob is under; `externals` is what the
    caller has registered for the ids of external snapshots. `unmapped` are clusters
    that blobs gave up by unmaps and no commit has said so yet; `thawing` are
    writers that wait for a frozen blob, `allocating` those that wait for a cluster
    that another one is just making, by blob and place. `circular` are blobs that
    were found to be their own ancestors. `unrelated` are blobs that cannot be read, so their
    parents are not known, and why. `page_reader` keeps metadata pages from one opening to
    the next, until something changes. `withheld_roots` are pages that no new root gets: a clone
    names the id as its parent, and would read the new blob. Metadata before `backed_pages` has
    its space on the host, super block and masks included; None is not even those.
    """

    def __init__(
        self,
        *,
        traits: DeviceTraits,
        super_block: SuperBlock,
        geometry: Geometry,
        used_pages: bitarray,
        used_clusters: bitarray,
        used_ids: bitarray,
        read_only: bool = False,
        write_through: bool = False,
    ) -> None:
        self.traits = traits
        self.layout = traits.layout
        self.super_block = super_block
        self.bstype = super_block.bstype
        self.geometry = geometry
        self.pages = Pool(used_pages, name="metadata page", errno=ENOMEM, remedy=_PAGES_REMEDY)
        self.clusters = Pool(
            used_clusters, name="cluster", errno=ENOSPC, first=geometry.md_clusters
        )
        self.used_ids = used_ids
        self.reservations = Reservations()
        self.backed_pages = None if traits.is_sparse else PageIndex(geometry.md_len)

        self.read_only_reason = "opened read-only" if read_only else ""
        self.was_recovered = False
        self.forced = False
        self.write_through = write_through
        self.poison: BaseException | None = None
        self.is_closed = False
        self.is_marked_dirty = not super_block.clean
        self.is_changed = False
        self.change_depth = 0
        self.change_count = 0
        self.recovery_plan = RecoveryPlan()

        self.open_blobs: dict[BlobId, BlobState] = {}
        self.exclusive: dict[BlobId, str] = {}
        self.externals: dict[bytes, ExternalSource] = {}
        self.clones = Clones()
        self.errors: dict[BlobId, BlobstoreError] = {}
        self.circular: set[BlobId] = set()
        self.withheld_roots: frozenset[PageIndex] = frozenset()
        self.unrelated: dict[BlobId, BlobstoreError] = {}
        self.owned_clusters = bitarray(len(used_clusters), endian="little")
        self.zeroed_clusters = bitarray(len(used_clusters), endian="little")
        self.prepared_pages = bitarray(len(used_pages), endian="little")
        self.unmapped: defaultdict[BlobId, list[int]] = defaultdict(list)
        self.unmapped_count = 0
        self.thawing: deque[Wakeup] = deque()
        self.allocating: dict[tuple[BlobId, int], deque[Wakeup]] = {}

        self._inherited_leaf_count = 0
        self._buffers: list[bytearray] = []
        self.mutex = Mutex()
        self.epochs = Epochs()
        self.page_reader: PageReader | None = None
        self.deferred: deque[Deferred] = deque()
        self.flush_device = SharedFlush(self._flush_once)

    @property
    def free_clusters(self) -> int:
        """Clusters that a write can get, those included that need a flush first."""
        return self.clusters.available + self.unmapped_count

    @property
    def read_only(self) -> bool:
        """Tell whether nothing may be changed."""
        return bool(self.read_only_reason)

    @property
    def is_writable(self) -> bool:
        """Tell whether changes can still reach the device."""
        return self.poison is None and not self.read_only_reason

    def check_open(self) -> None:
        """Raise `ClosedError` when the store was closed."""
        if self.is_closed:
            raise ClosedError("store: closed")

    def check_writable(self) -> None:
        """Raise what forbids a change, if anything does."""
        self.check_open()
        self.check_usable()
        if self.read_only_reason:
            raise ReadOnlyError(f"store: {self.read_only_reason}")

    def check_usable(self) -> None:
        """Raise `PoisonedError` when a change went wrong after it had begun."""
        if self.poison is not None:
            what = str(self.poison) or type(self.poison).__name__
            raise PoisonedError(f"store: unusable for changes since: {what}")

    def mark_closed(self) -> None:
        """End the store: nothing but its closing is allowed from now on."""
        self.is_closed = True

    async def checkpoint(self) -> None:
        """Let the caller stop here, unless a change is between its first write and its last."""
        if not self.change_depth:
            await Checkpoint()

    def mark_unusable(self, error: BaseException) -> None:
        """Poison the store: a change went wrong after it had begun, only reads go on."""
        self.poison = self.poison or error

    @property
    def verifies_ownership(self) -> bool:
        """Tell whether a blob is refused that owns what it cannot.

        No blob is refused on a poisoned store, where memory can be older than the device. Nor on
        a store that was forced open, because the caller was warned.
        """
        return self.poison is None and not self.forced

    def refuse_changes(self, reason: str) -> None:
        """Make the store read-only, unless the caller forced it open."""
        if not self.forced and not self.read_only_reason:
            self.read_only_reason = reason

    def remember_inherited(self, blob: BlobState, index: int, cluster: int) -> None:
        """Let later reads of a clone's place find the ancestor's cluster that is read there.

        The fast path looks into `inherited` without a lock, after a look into the clone's own
        map. So whatever changes what a clone reads calls `forget_inherited` first, and frees
        clusters after a grace period. All clones together remember a few thousand leaves.
        """
        number = index >> LEAF_SHIFT
        if number not in blob.inherited:
            if self._inherited_leaf_count >= _MOST_INHERITED_LEAVES:
                self.forget_inherited()
            self._inherited_leaf_count += 1
            if blob.inherited is NO_LEAVES:
                blob.inherited = SparseLeaves()
            blob.inherited[number] = array("I", bytes(4 * LEAF_SIZE))
        leaf = cast("array[int]", blob.inherited[number])
        leaf[index & LEAF_MASK] = cluster

    def forget_inherited(self) -> None:
        """Make open clones look up again what they read from their ancestors."""
        if self._inherited_leaf_count:
            self._inherited_leaf_count = 0
            for blob in self.open_blobs.values():
                blob.inherited = NO_LEAVES

    def places_in_flight(self, blob: BlobState) -> list[int]:
        """Return the places of the blob for which a cluster is just being made."""
        return [index for blob_id, index in self.allocating if blob_id == blob.blob_id]

    def take_buffer(self) -> bytearray:
        """Return a buffer of one cluster; memory that was used before costs no page faults."""
        return self._buffers.pop() if self._buffers else bytearray(self.geometry.cluster_size)

    def keep_buffers(self, buffers: Sequence[bytearray]) -> None:
        """Keep a few buffers that are no longer in use."""
        room = max(1, _KEPT_BUFFER_BYTES // self.geometry.cluster_size) - len(self._buffers)
        self._buffers += buffers[: max(0, room)]

    def defer(self, operations: Sequence[Operation[Any]], then: Callable[[], None]) -> None:
        """Let the operations happen before the next flush, and `then` after it."""
        self.deferred.append(Deferred(operations, then))

    async def _flush_once(self) -> None:
        self.check_writable()
        deferred, self.deferred = self.deferred, deque()
        operations = [operation for each in deferred for operation in each.operations]
        try:
            if operations:
                await Batch(operations)
            await Flush()
        except BaseException as error:
            self.mark_unusable(error)
            raise
        for each in deferred:
            each.then()
