"""Power failures in a volume store: every state that a cut can leave of each operation.

`python -m tests.proof.volume_cuts` explores them all, and prints a line for each operation.
A state is good when the store loads with its name and uuid, when no two volumes share a name,
and when the volumes are those from before the operation or those after it. A cut while the
store is made leaves no store, or a whole one. `tests.proof.crash` looks at what blobs contain.
"""

import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias
from uuid import UUID

from blobstore.errors import BlobstoreError, CorruptError
from blobstore.fsck.examine import examine
from blobstore.fsck.finding import Severity
from blobstore.metadata.load_store import load
from blobstore.metadata.store_state import StoreState
from blobstore.store.blobs import BlobOptions
from blobstore.store.init import Clear, InitOptions, plan_empty, write_empty
from blobstore.store.lifecycle import unload
from blobstore.store.open_blobs import close_blob, open_blob
from blobstore.store.rollback import roll_back
from blobstore.testing.alone import run_alone
from blobstore.testing.crash_states import Limits, crash_contents
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER, MD_PAGES, new_disk
from blobstore.units import BlobId
from blobstore.volumes import change
from blobstore.volumes.identity import VOLUME_STORE_TYPE
from blobstore.volumes.load_volumes import create_super_blob, load_volume_store
from blobstore.volumes.volume_store import VolumeStoreState

SHORT: Final = Limits(subsets=32, samples=8, torn_masks=6)

Volumes: TypeAlias = dict[BlobId, tuple[str, UUID | None]]
Seen: TypeAlias = tuple[str, UUID, Volumes]
"""A store's name and uuid, and its volumes."""


@dataclass(slots=True)
class Shop:
    """A volume store `vms` on a disk: volumes `a` and `b`, a snapshot `s`, its clone `c`."""

    disk: SimulatedDisk
    _uuids: random.Random = field(default_factory=lambda: random.Random(1))
    volumes: VolumeStoreState = field(init=False)

    def init(self) -> None:
        """Make the store."""
        options = InitOptions(
            cluster_size=CLUSTER, md_pages=MD_PAGES, bstype=VOLUME_STORE_TYPE, clear=Clear.UNMAP
        )
        core, uuid = plan_empty(self.disk.traits, options), self.uuid()

        async def make_super_blob(store: StoreState) -> BlobId:
            return await create_super_blob(store, name="vms", uuid=uuid)

        self.run(write_empty(core, options.clear, make_super_blob))
        self.volumes = self.run(load_volume_store(core))

    def fill(self) -> None:
        """Make what the operations work on, and load the store again."""
        self.init()
        self.create("a")
        self.snapshot("a", "s")
        self.clone("s", "c")
        self.create("b")
        self.run(unload(self.volumes.core))
        core = self.run(load(self.disk.traits))
        self.volumes = self.run(load_volume_store(core))

    def uuid(self) -> UUID:
        return UUID(int=self._uuids.getrandbits(128), version=4)

    def run(self, core: Coroutine[Any, Any, Any]) -> Any:
        return run_alone(core, self.disk)

    def id_of(self, name: str) -> BlobId:
        record = self.volumes.named(name)
        assert record is not None
        return record.blob_id

    def create(self, name: str) -> None:
        options = BlobOptions(cluster_count=2, thin=True)
        self._close(
            self.run(change.create_volume(self.volumes, options, name=name, uuid=self.uuid()))
        )

    def snapshot(self, source: str, name: str) -> None:
        blob = self.run(open_blob(self.volumes.core, self.id_of(source)))
        core = change.snapshot_volume(self.volumes, blob, name=name, uuid=self.uuid(), xattrs={})
        self._close(self.run(core))
        self._close(blob)

    def clone(self, source: str, name: str) -> None:
        core = change.clone_volume(
            self.volumes, self.id_of(source), name=name, uuid=self.uuid(), xattrs={}
        )
        self._close(self.run(core))

    def delete(self, name: str) -> None:
        self.run(change.delete_volume(self.volumes, self.id_of(name)))

    def rollback(self, name: str, snapshot: str) -> None:
        blob = self.run(open_blob(self.volumes.core, self.id_of(name)))
        self.run(roll_back(self.volumes.core, blob, self.id_of(snapshot)))
        self._close(blob)

    def rename(self, name: str, new: str) -> None:
        record = self.volumes.named(name)
        assert record is not None
        self.run(change.rename_volume(self.volumes, record, new))

    def rename_store(self, name: str) -> None:
        self.run(change.rename_store(self.volumes, name))

    def seen(self) -> Seen:
        """Return the store and its volumes, as memory has them."""
        return seen(self.volumes)

    def _close(self, blob: Any) -> None:
        self.run(close_blob(self.volumes.core, blob))


def seen(volumes: VolumeStoreState) -> Seen:
    """Return a store's name and uuid, and its volumes."""
    return volumes.name, volumes.uuid, {r.blob_id: (r.name, r.uuid) for r in volumes}


OPERATIONS: Final[dict[str, Callable[[Shop], None]]] = {
    "create": lambda shop: shop.create("d"),
    "snapshot": lambda shop: shop.snapshot("a", "d"),
    "clone": lambda shop: shop.clone("s", "d"),
    "rollback": lambda shop: shop.rollback("c", "s"),
    "rename": lambda shop: shop.rename("b", "d"),
    "rename, longer": lambda shop: shop.rename("a", "d" * 63),
    "rename of the store": lambda shop: shop.rename_store("other"),
    "delete": lambda shop: shop.delete("b"),
    "delete a clone": lambda shop: shop.delete("c"),
}
"""Each is one step from the volumes before it to those after it."""

MULTI_STEP: Final[dict[str, list[Callable[[Shop], None]]]] = {
    "reuse of a name": [lambda shop: shop.delete("b"), lambda shop: shop.create("b")],
    "swap of two names": [
        lambda shop: shop.rename("a", "x"),
        lambda shop: shop.rename("b", "a"),
        lambda shop: shop.rename("x", "b"),
    ],
    "delete a snapshot with one clone": [
        lambda shop: shop.delete("c"),
        lambda shop: shop.delete("s"),
    ],
}
"""Several steps, one after the other; a cut leaves what was before or after one of them."""


@dataclass(slots=True)
class Outcome:
    """What was explored of one operation."""

    states: int = 0
    bad: list[str] = field(default_factory=list)


def explore_init(*, sector: bool, limits: Limits = SHORT, over_a_store: bool = False) -> Outcome:
    """Cut the making of a store."""
    shop = Shop(new_disk(sector=sector))
    if over_a_store:
        shop.fill()
    base, first = bytes(shop.disk.content), len(shop.disk.events)
    old = shop.seen() if over_a_store else None
    shop.init()
    return _judged(shop.disk, base, first, [old, None, shop.seen()], limits)


def explore(name: str, *, sector: bool, limits: Limits = SHORT) -> Outcome:
    """Cut one operation, or several that follow each other, on a store with volumes."""
    shop = Shop(new_disk(sector=sector))
    shop.fill()
    base, first = bytes(shop.disk.content), len(shop.disk.events)
    allowed: list[Seen | None] = [shop.seen()]
    for step in MULTI_STEP.get(name) or [OPERATIONS[name]]:
        step(shop)
        allowed.append(shop.seen())
    return _judged(shop.disk, base, first, allowed, limits)


def _judged(
    disk: SimulatedDisk, base: bytes, first: int, allowed: list[Seen | None], limits: Limits
) -> Outcome:
    limits = replace(limits, atomic=disk.traits.atomic_write_size)
    outcome, judged = Outcome(), dict[bytes, None]()
    for state, content in crash_contents(base, disk.events[first:], limits):
        outcome.states += 1
        if content in judged:
            continue
        judged[content] = None
        problem = judge(_like(disk, content), allowed)
        if problem is not None:
            outcome.bad.append(f"model {state.model}, event {state.event}: {problem}")
    return outcome


def _like(disk: SimulatedDisk, content: bytes) -> SimulatedDisk:
    traits = disk.traits
    return SimulatedDisk(
        content, atomic_write_size=traits.atomic_write_size, block_size=traits.block_size
    )


def judge(disk: SimulatedDisk, allowed: list[Seen | None]) -> str | None:
    """Say what is wrong with a crash state, or None; None among `allowed` is no store at all."""
    try:
        core = run_alone(load(disk.traits, bstype=VOLUME_STORE_TYPE), disk)
    except CorruptError as error:
        return None if None in allowed else f"there is no store: {error}"
    try:
        found = seen(run_alone(load_volume_store(core), disk))
        if found not in allowed:
            return f"found {found}"
        names = [name for name, _uuid in found[2].values()]
        if len(set(names)) < len(names):
            return f"two volumes of one name: {names}"
        report = run_alone(examine(disk.traits), disk)
    except BlobstoreError as error:
        return f"{type(error).__name__}: {error}"
    errors = [each for each in report.findings if each.severity is not Severity.NOTE]
    return f"check: {errors[0]}" if errors else None


def explore_all(limits: Limits = SHORT) -> Iterator[tuple[str, Outcome]]:
    """Explore every operation in both layouts of roots."""
    for sector in (True, False):
        layout = "sector" if sector else "compact"
        for over in (False, True):
            title = f"{layout}: init{' over a store' if over else ''}"
            yield title, explore_init(sector=sector, limits=limits, over_a_store=over)
        for name in (*OPERATIONS, *MULTI_STEP):
            yield f"{layout}: {name}", explore(name, sector=sector, limits=limits)


def main() -> int:
    """Explore all; the exit code is 1 if a state was bad."""
    states = bad = 0
    for title, outcome in explore_all(Limits()):
        states, bad = states + outcome.states, bad + len(outcome.bad)
        print(f"{title:45} {outcome.states:8} states {len(outcome.bad):4} bad")
        for problem in outcome.bad[:3]:
            print(f"    BAD {problem}")
    print(f"{states} states of volume stores, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
