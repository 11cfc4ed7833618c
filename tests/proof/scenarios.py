"""What the crash explorer runs: bases, and sequences of operations on them.

A base is a tiny store as somebody left it. Every sequence of one to three
operations follows on each; only the events of the last one are explored,
because the shorter sequences have covered the others. Then come long ones.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final

from blobstore.format.geometry import blob_id_of
from blobstore.format.page import HEAD, NO_PAGE, PAGE_SIZE, MetadataPage
from blobstore.format.root import TAIL_OFFSET, encode_tombstone_tail
from blobstore.testing.expectation import Expectation, ExpectedBlob
from blobstore.testing.original import rewrite_roots
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.testing.workload import CLUSTER, Record, Step, Workload, new_disk
from blobstore.units import BlobId, PageIndex

OPERATIONS: Final[dict[str, list[Step]]] = {
    "create thin": [("create", "c", 3, "thin")],
    "create thick": [("create", "c", 2, "", 40)],
    "create chain": [("create", "c", 2, "runs", 3000)],
    "delete thin": [("delete", "a")],
    "delete chain": [("delete", "r")],
    "xattr": [("xattr", "a", "k", 60), ("sync", "a")],
    "xattr long": [("xattr", "a", "k", 3000), ("sync", "a")],
    "xattr chain": [("xattr", "r", "x", 2000), ("sync", "r")],
    "write": [("write", "a", 9, 3)],
    "write sync": [("write", "a", 14, 12), ("sync", "a")],
    "write runs": [("write", "t", 9, 9), ("sync", "t")],
    "overwrite": [("write", "r", 3, 2), ("sync", "r")],
    "unmap": [("unmap", "a", 0, 8), ("sync", "a")],
    "zero": [("zero", "a", 4, 8), ("sync", "a")],
    "grow blob": [("resize", "r", 4), ("sync", "r")],
    "grow thin": [("resize", "a", 6), ("sync", "a")],
    "shrink": [("resize", "a", 1), ("sync", "a")],
    "shrink thick": [("resize", "r", 1), ("sync", "r")],
    "read only": [("read_only", "t"), ("sync", "t")],
    "set super": [("super", "a")],
    "flush": [("write", "r", 9, 2), ("flush",)],
    "reload": [("unload",), ("load",)],
}
"""Operations on a base with blobs a (thin, table), r (thick, runs, chain) and t (thin, runs)."""

SNAPSHOT_OPERATIONS: Final[dict[str, list[Step]]] = {
    "snapshot": [("snapshot", "a", "n")],
    "snapshot runs": [("snapshot", "r", "n")],
    "snapshot unsynced": [("write", "a", 1, 9), ("xattr", "a", "k", 900), ("snapshot", "a", "n")],
    "clone": [("clone", "s0", "d")],
    "clone runs": [("clone", "t0", "d")],
    "delete middle": [("delete", "s1")],
    "delete shared": [("delete", "c"), ("delete", "s0")],
    "delete runs": [("delete", "t0")],
    "delete clone": [("delete", "c")],
    "copy on write": [("write", "a", 20, 7), ("sync", "a")],
    "copy on write runs": [("write", "t", 3, 13), ("sync", "t")],
    "inflate": [("delete", "r"), ("inflate", "a")],
    "inflate runs": [("inflate", "t")],
    "decouple": [("decouple", "a")],
    "set parent": [("set_parent", "e", "s0")],
    "move": [("set_parent", "c", "s1")],
    "rollback": [("rollback", "a", "s1")],
    "rollback far": [("resize", "a", 3), ("write", "a", 12, 9), ("rollback", "a", "s0")],
    "rollback runs": [("xattr", "t", "k", 900), ("rollback", "t", "t0")],
    "grow clone": [("resize", "a", 6), ("write", "a", 42, 3), ("sync", "a")],
    "shrink clone": [("resize", "t", 1), ("sync", "t")],
    "unmap clone": [("unmap", "a", 0, 16), ("sync", "a")],
    "create": [("create", "x", 2, "", 40)],
    "reload": [("unload",), ("load",)],
}
"""Operations on a base with chains: s0 <- s1 <- a, s0 <- c; t0 <- t; e thin, r thick."""

ALL_OPERATIONS: Final = OPERATIONS | SNAPSHOT_OPERATIONS

_LONG: Final = 200
_GROWTH: Final = 4


@dataclass(frozen=True, slots=True)
class Base:
    """A disk as it was left, and what must be on it."""

    name: str
    content: bytes
    sector: bool
    expectation: Expectation
    ids: dict[str, BlobId]

    def start(self) -> Workload:
        """Return a workload that goes on from here."""
        disk = SimulatedDisk(
            self.content,
            atomic_write_size=512 if self.sector else 4096,
            block_size=512 if self.sector else 4096,
        )
        workload = Workload(disk, self.expectation)
        workload.ids = dict(self.ids)
        return workload


@dataclass(frozen=True, slots=True)
class Scenario:
    """A base and the operations after it; the last one is what is explored."""

    base: str
    sector: bool
    operations: tuple[str, ...]
    seed: int = 0

    def __str__(self) -> str:
        layout = "sector" if self.sector else "compact"
        script = ", ".join(self.operations) if self.operations else f"random {self.seed}"
        return f"{self.base}/{layout}: {script}"


def make_base(name: str, *, sector: bool) -> Base:
    """Return the base of that name for a layout."""
    return _make_base(name, sector)


BASES: Final = ("dirty", "clean", "original", "leftovers")
SNAPSHOT_BASES: Final = ("snapshots", "snapshots by the original", "rewritten snapshots")
_COMPACT_BASES: Final = ("original", "leftovers", "snapshots by the original")

_PLAIN: Final[list[Step]] = [
    ("init",),
    ("create", "a", 4, "thin"),
    ("create", "r", 2, "runs", 3000),
    ("create", "t", 3, "thin runs", 600),
    ("write", "a", 0, 10),
    ("write", "r", 0, 16),
    ("write", "t", 8, 8),
    ("xattr", "a", "k", 20),
    ("unload",),
]
_CHAINS: Final[list[Step]] = [
    ("init",),
    ("create", "a", 4, "thin"),
    ("write", "a", 0, 17),
    ("snapshot", "a", "s0"),
    ("write", "a", 6, 4),
    ("snapshot", "a", "s1"),
    ("write", "a", 9, 2),
    ("clone", "s0", "c"),
    ("create", "t", 2, "runs", 300),
    ("write", "t", 0, 9),
    ("snapshot", "t", "t0"),
    ("write", "t", 2, 2),
    ("create", "e", 4, "thin"),
    ("create", "r", 1, "", 60),
    ("unload",),
]


@cache
def _make_base(name: str, sector: bool) -> Base:
    """Build the base; `original` and `leftovers` were written in the compact layout."""
    compact = name in _COMPACT_BASES
    workload = Workload(new_disk(sector=sector and not compact))
    workload.run(_CHAINS if name in SNAPSHOT_BASES else _PLAIN)
    content = workload.disk.content
    if name == "leftovers":
        _leave_remains(content)
    base = Base(name, bytes(content), sector, workload.expected, workload.ids)
    if name == "rewritten snapshots":
        return _rewritten(base)
    if name != "dirty":
        return base
    dirty = base.start()
    dirty.run([("load",), ("create", "gone", 1), ("delete", "gone"), ("flush",), ("flush",)])
    return Base(name, bytes(dirty.disk.content), sector, dirty.expected, base.ids)


def _rewritten(base: Base) -> Base:
    """Let the original rewrite all roots, and lose its power."""
    workload = base.start()
    workload.run([("load",), ("create", "gone", 1), ("delete", "gone"), ("flush",), ("flush",)])
    content = rewrite_roots(bytes(workload.disk.content))
    return Base(base.name, content, base.sector, workload.expected, base.ids)


def _leave_remains(content: bytearray) -> None:
    """Put into free pages what the original leaves: half-made and deleted roots, old pages."""
    for page in range(7, 24):
        at = PageIndex(page)
        root = MetadataPage(blob_id_of(at), 0, b"\3" * 4000, NO_PAGE).encode()
        remains = [
            root[:2048] + bytes(2048),
            root[:TAIL_OFFSET] + encode_tombstone_tail(root),
            MetadataPage(blob_id_of(PageIndex(1)), 1, b"\2" * 4000, NO_PAGE).encode(),
        ][page % 3]
        assert HEAD.size < len(remains) == PAGE_SIZE
        offset = (4 + page) * CLUSTER
        content[offset : offset + PAGE_SIZE] = remains


def scenarios(length: int, *, all_bases: bool = True) -> Iterator[Scenario]:
    """Yield every sequence of so many operations, on every base or one of each kind."""
    plain = BASES if all_bases else ("clean",)
    chains = SNAPSHOT_BASES if all_bases else ("snapshots",)
    for names, bases in ((OPERATIONS, plain), (SNAPSHOT_OPERATIONS, chains)):
        for operations in product(names, repeat=length):
            for base in bases:
                for sector in (True, False):
                    yield Scenario(base, sector, operations)


def special_scenarios() -> Iterator[Scenario]:
    """Yield what has a beginning of its own: making a store, growing one, filling one."""
    for sector in (True, False):
        for name in ("init", "init over a store", "grow closed", "grow open", "full"):
            yield Scenario(name, sector, (name,))


def random_scenarios(count: int, seed: int) -> Iterator[Scenario]:
    """Yield long random sequences, by seed."""
    for number in range(count):
        base = (*BASES, *SNAPSHOT_BASES)[number % 7]
        yield Scenario(base, number % 14 < 10, (), seed + number)


def run_scenario(scenario: Scenario) -> tuple[Record, int] | None:
    """Run it; return the record and the event to explore from, or None if it makes no sense."""
    if scenario.base not in (*BASES, *SNAPSHOT_BASES):
        return _run_special(scenario)
    workload = make_base(scenario.base, sector=scenario.sector).start()
    workload.step("load")
    if not scenario.operations:
        return _run_random(workload, random.Random(scenario.seed))
    first = 0
    for name in scenario.operations:
        first = len(workload.disk.events)
        for step in ALL_OPERATIONS[name]:
            if not is_possible(workload, step):
                return None
            workload.step(*step)
    return workload.record, first


def _run_special(scenario: Scenario) -> tuple[Record, int]:
    name = scenario.base
    if name == "init":
        return Workload(new_disk(sector=scenario.sector)).run([("init",)]), 0
    base = make_base("dirty" if "init" in name else "clean", sector=scenario.sector)
    workload = base.start()
    if name == "init over a store":
        workload.expected.may_be_missing = True
        workload.run([("init",)])
    elif name == "grow closed":
        workload.run([("grow_closed", _GROWTH), ("load",), ("create", "c", 10)])
    elif name == "full":
        workload.run([("load",)])
        assert workload.store is not None
        free = workload.store.free_clusters
        workload.run([("create", "f", free), ("delete", "f"), ("create", "g", free)])
    else:
        workload.run([("load",), ("grow_open", _GROWTH), ("create", "c", 10), ("unload",)])
    return workload.record, 0


def _run_random(workload: Workload, rng: random.Random) -> tuple[Record, int]:
    """Run random operations; those that make no sense just then are left out."""
    names = [name for name in ALL_OPERATIONS for _ in range(1 if name == "reload" else 3)]
    for number in range(rng.randrange(50, _LONG)):
        steps = ALL_OPERATIONS[rng.choice(names)]
        renamed = [_rename(step, rng, number) for step in steps]
        for step in renamed:
            if is_possible(workload, step):
                workload.step(*step)
    return workload.record, 0


def _rename(step: Step, rng: random.Random, number: int) -> Step:
    if step[0] == "create":
        return (step[0], f"n{number}", *step[2:])
    if rng.random() < 0.3 and len(step) > 1:
        return (step[0], f"n{rng.randrange(max(1, number))}", *step[2:])
    return step


def is_possible(workload: Workload, step: Step) -> bool:
    """Tell whether the step fits what is there: its blob, and the range inside it."""
    name = step[0]
    if len(step) == 1:
        return True
    if name == "create":
        return step[1] not in workload.ids
    if step[1] not in workload.ids:
        return False
    expected = workload.expected.blobs[workload.ids[step[1]]]
    if name in ("snapshot", "clone", "set_parent", "decouple", "delete", "rollback"):
        return _is_relation_possible(workload, step, expected)
    if expected.meta.read_only and name in (
        "write", "zero", "unmap", "resize", "xattr", "read_only"
    ):  # fmt: skip
        return False
    if name in ("write", "zero", "unmap"):
        return int(step[2]) + int(step[3]) <= len(expected.current)
    return True


def _is_relation_possible(workload: Workload, step: Step, expected: ExpectedBlob) -> bool:
    name, blob_id = step[0], workload.ids[step[1]]
    if name == "snapshot":
        return step[2] not in workload.ids and not expected.meta.read_only
    if name == "clone":
        return step[2] not in workload.ids and _is_sealed(expected)
    if name == "delete":
        clones = [b for b in workload.expected.blobs.values() if b.meta.parent == blob_id]
        return len(clones) <= 1
    if name == "decouple":
        return expected.meta.parent is not None
    if name == "rollback":
        return not expected.meta.read_only and step[2] in _ancestors(workload, expected)
    parent_id = workload.ids.get(step[2])
    if parent_id is None or parent_id in (blob_id, expected.meta.parent):
        return False
    parent = workload.expected.blobs[parent_id]
    return _is_sealed(parent) and parent.meta.cluster_count == expected.meta.cluster_count


def _ancestors(workload: Workload, expected: ExpectedBlob) -> set[str]:
    """Return the names of the blobs below this one."""
    names = {blob_id: name for name, blob_id in workload.ids.items()}
    found: set[str] = set()
    parent = expected.meta.parent
    while parent is not None:
        found.add(names[BlobId(parent)])
        parent = workload.expected.blobs[parent].meta.parent
    return found


def _is_sealed(expected: ExpectedBlob) -> bool:
    """Tell whether the blob is read-only for good: being made so takes effect with the sync."""
    return all(version.read_only for version in expected.versions)
