"""Power failures during a repair and an undo: every state that a cut can leave is judged.

A damage of the corruptor's catalogue is repaired on the simulated disk, and the
repair is taken back; both leave a record of writes and flushes, of which the
states of CRASH-SAFETY 6 are made. A state is good when it is, byte by byte, the
store as it was or as it is to be; or else marked: nothing opens it, and the undo
file brings every byte back. That undo is cut off as well (model F).

Of some marked states more is wanted: `check` names the undo file; `repair` with
that file ends where it would have ended at first, also when it is cut off again;
`repair all` without it leaves a clean store in which no blob is missing, and none
reads what it never held; `rescue` reads what the repair does not touch.
"""

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from blobstore import BlobId, Blobstore, Rescue, check, repair, undo
from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.repair_mark import RepairMark
from blobstore.format.super_block import SUPER_BLOCK_SIZE
from blobstore.fsck.finding import Severity
from blobstore.testing.crash_states import Limits, crash_contents
from blobstore.testing.explorer import Finding, Tally
from blobstore.testing.original import load_as_original
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import Event, SimulatedDisk
from tests.proof.corruptions.catalogue import Mode
from tests.proof.corruptions.sample import Fingerprint, fingerprints, sample
from tests.proof.corruptor import CORRUPTIONS

SHARED_MEMORY: Final = Path("/dev/shm")
"""Undo files are synced for each state; what that costs on a disk proves nothing here."""

_AGAIN: Final = Limits(subsets=8, samples=4, torn_masks=4)
_READ_MAX: Final = 1 << 18
_CUT_OFF: Final = 46


@dataclass(frozen=True, slots=True)
class RepairScenario:
    """A damage, the mode it is repaired with, and the layout of the store."""

    damage: str
    mode: Mode
    sector: bool
    seed: int = 0

    def __str__(self) -> str:
        layout = "sector" if self.sector else "compact"
        return f"{self.damage}/{layout}: repair {self.mode}"


def repair_scenarios(*, all_of_them: bool = True) -> Iterator[RepairScenario]:
    """Yield all damages in both layouts with both modes, or one for each invariant."""
    seen: set[int] = set()
    for corruption in CORRUPTIONS:
        first = corruption.invariants[0]
        if corruption.mode is None or (first in seen and not all_of_them):
            continue
        for mode in dict.fromkeys(("all", corruption.mode) if all_of_them else ("all",)):
            for sector in (True, False) if all_of_them else (len(seen) % 3 < 2,):
                yield RepairScenario(corruption.name, mode, sector)
        seen.add(first)


def explore_repair(
    scenario: RepairScenario,
    limits: Limits,
    *,
    thorough_every: int = 4,
    without_flush: str | None = None,
) -> Tally:
    """Judge the states of one scenario; every so many of them more thoroughly.

    Without a flush, as if the disk had not been told of it, the first bad state is enough.
    """
    shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with TemporaryDirectory(dir=shared) as directory:
        explorer = _RepairExplorer(scenario, limits, Path(directory), thorough_every)
        if explorer.undo_path.exists():
            explorer.explore("repair", explorer.old, explorer.events, without_flush)
            explorer.explore("undo", explorer.new, explorer.events_of_undo(), without_flush)
        return explorer.tally


@dataclass(slots=True)
class _Again:
    """An operation on a marked state that is going to be cut off as well."""

    base: bytes
    events: Sequence[Event]
    undo_paths: tuple[Path, ...]


class _RepairExplorer:
    """One damaged store, its repair, and the undo file of that."""

    def __init__(
        self, scenario: RepairScenario, limits: Limits, directory: Path, thorough_every: int
    ) -> None:
        self.scenario = scenario
        self.damage = next(each for each in CORRUPTIONS if each.name == scenario.damage)
        self.atomic = 512 if scenario.sector else 4096
        self.limits = Limits(limits.subsets, limits.samples, limits.torn_masks, self.atomic)
        self.thorough_every = thorough_every
        self.rng = random.Random(scenario.seed)
        self.tally = Tally()
        self.undo_path = directory / "undo"
        self._paths = (directory / f"{number}" for number in count())
        self._seen: set[bytes] = set()
        self.old = self.damage.break_store(sample(self.atomic))[0]
        disk = self._disk(self.old)
        repair(SimulatedDevice(disk), scenario.mode, undo=self.undo_path)
        self.new, self.events = bytes(disk.content), disk.events

    def events_of_undo(self) -> Sequence[Event]:
        disk = self._disk(self.new)
        undo(SimulatedDevice(disk), self.undo_path)
        return disk.events

    def _disk(self, content: bytes | bytearray) -> SimulatedDisk:
        disk = SimulatedDisk(content, atomic_write_size=self.atomic)
        numbers = count(1)
        disk.site = lambda: f"flush {next(numbers)}"
        return disk

    # Making states

    def explore(
        self, name: str, base: bytes, events: Sequence[Event], without_flush: str | None
    ) -> None:
        """Judge all states of a record."""
        if without_flush is not None and not without_flush.startswith(name):
            return
        without = without_flush and without_flush.removeprefix(f"{name} ")
        for state, content in crash_contents(
            base, events, self.limits, rng=self.rng, without_site=without
        ):
            self.tally.states[state.model, name] += 1
            key = blake2b(content, digest_size=16).digest()
            if key in self._seen:
                continue
            self._seen.add(key)
            self.tally.loaded += 1
            is_thorough = self.tally.loaded % self.thorough_every == 0
            problem = self._judge(content, name, is_thorough=is_thorough)
            if problem is not None:
                self.tally.findings.append(Finding(name, state.model, state.event, problem, state))
                if without_flush is not None:
                    return

    def _cut_again(self, name: str, again: _Again) -> str | None:
        """Model F: cut off what puts a marked state right."""
        limits = Limits(_AGAIN.subsets, _AGAIN.samples, _AGAIN.torn_masks, self.atomic)
        for state, content in crash_contents(again.base, again.events, limits, rng=self.rng):
            self.tally.states["F", name] += 1
            problem = self._whole_or_marked(content, again.base, again.undo_paths)
            if problem is not None:
                return f"after a second crash at event {state.event}: {problem}"
        return None

    # Judging them

    def _judge(self, content: bytes, name: str, *, is_thorough: bool) -> str | None:
        try:
            problem = self._whole_or_marked(content, None, (self.undo_path,))
            if problem is not None or content in (self.old, self.new) or not is_thorough:
                return problem
            return (
                self._check_names_the_file(content)
                or self._undo_again(content, name)
                or self._repair_again(content, name)
                or self._repair_without_file(content)
                or self._rescue(content)
            )
        except (BlobstoreError, AssertionError) as error:
            return f"{type(error).__name__}: {error}"

    def _whole_or_marked(
        self, content: bytes, earlier: bytes | None, undo_paths: Sequence[Path]
    ) -> str | None:
        """Without a mark every byte is old, or new; with one nothing opens it, and undo does."""
        if content in (self.old, self.new):
            return None
        mark = RepairMark.decode(content[:SUPER_BLOCK_SIZE])
        if mark is None:
            return "neither old, new nor marked"
        if content != earlier:
            for opens in (load_as_original, self._open):
                try:
                    opens(content)
                except CorruptError:
                    continue
                return f"{opens.__name__} takes a marked store"
        return self._undo(content, mark, undo_paths)

    def _open(self, content: bytes) -> None:
        Blobstore.open(SimulatedDevice(self._disk(content)), read_only=True, force=True).close()

    def _undo(self, content: bytes, mark: RepairMark, undo_paths: Sequence[Path]) -> str | None:
        for path in undo_paths:
            disk = self._disk(content)
            try:
                undo(SimulatedDevice(disk), path)
            except CorruptError as error:
                if "of another repair" in error.message:
                    continue
                return f"undo refuses: {error}"
            return None if disk.content == self.old else "undo does not bring every byte back"
        return f"no undo file with the id of the mark: {mark}"

    def _check_names_the_file(self, content: bytes) -> str | None:
        report = check(SimulatedDevice(self._disk(content)))
        named = [str(each) for each in report.findings if each.invariant == _CUT_OFF]
        if report.clean or len(named) != 1 or f"its undo file is {self.undo_path}:" not in named[0]:
            return f"check does not say which file takes it back: {named}"
        return None

    def _undo_again(self, content: bytes, name: str) -> str | None:
        disk = self._disk(content)
        undo(SimulatedDevice(disk), self.undo_path)
        return self._cut_again(name, _Again(content, disk.events, (self.undo_path,)))

    def _repair_again(self, content: bytes, name: str) -> str | None:
        """Repair with the undo file of what was cut off: it ends as it would have done."""
        disk, path = self._disk(content), next(self._paths)
        shutil.copy(self.undo_path, path)
        report = repair(SimulatedDevice(disk), self.scenario.mode, undo=path)
        if disk.content != self.new or report.undo is None:
            return "a repair that begins again does not end as the first would have"
        return self._cut_again(name, _Again(content, disk.events, (self.undo_path, path)))

    def _repair_without_file(self, content: bytes) -> str | None:
        """Repair all of what is there; that, too, can be taken back."""
        disk, path = self._disk(content), next(self._paths)
        report = repair(SimulatedDevice(disk), "all", undo=path)
        if not report.after.clean:
            return "repair all without the undo file leaves " + "; ".join(
                str(each) for each in report.after.findings if each.severity is Severity.ERROR
            )
        errors = [each for each in report.before.findings if each.severity is Severity.ERROR]
        named = {each.blob for each in errors}
        problem = self._odd_blobs(bytes(disk.content), named)
        if problem is not None:
            return f"repair all without the undo file: {problem}"
        undo(SimulatedDevice(disk), path)
        return None if disk.content == content else "undo does not bring the marked store back"

    def _odd_blobs(self, content: bytes, named: set[BlobId | None]) -> str | None:
        """Say which blob is missing, was never there, or reads what it never held.

        Which clusters no blob owns depends on how far the masks were written. So the blob that
        keeps these may be there or not.
        """
        before, after = self._contents(self.old), self._contents(self.new)
        now, parents = self._contents(content), self._parents(content)
        if missing := after.keys() - parents.keys() - _keepers(after):
            return f"blob {min(missing):#x} is missing"
        known_ids = {*before, *after, *sample(self.atomic).names.values()}
        if strange := parents.keys() - known_ids - _keepers(now):
            return f"blob {min(strange):#x} was never there"
        for blob_id in before.keys() & now.keys():
            known = [each[blob_id].content for each in (before, after) if blob_id in each]
            if now[blob_id].content not in known and named.isdisjoint(_path(parents, blob_id)):
                return f"blob {blob_id:#x}, of which nothing was wrong, reads something else"
        return None

    def _parents(self, content: bytes) -> dict[BlobId, BlobId | None]:
        found: dict[BlobId, BlobId | None] = {}
        with Blobstore.open(SimulatedDevice(self._disk(content)), read_only=True) as store:
            for blob_id in store.blob_ids():
                with store.open_blob(blob_id) as blob:
                    found[blob_id] = blob.info.parent
        return found

    def _contents(self, content: bytes) -> dict[BlobId, Fingerprint]:
        return _contents(content, self.atomic)

    def _rescue(self, content: bytes) -> str | None:
        kept = set(self.damage.ids_kept(sample(self.atomic).names))
        sound = _whole_contents(self.atomic)
        with Rescue.open(SimulatedDevice(self._disk(content), read_only=True)) as rescue:
            found = {blob.id: blob for blob in rescue.blobs()}
            for blob_id in kept & set(sound):
                blob = found.get(blob_id)
                if blob is None or blob.read(blob.size) != sound[blob_id]:
                    return f"rescue does not read blob {blob_id:#x}"
        return None


def _keepers(blobs: Mapping[BlobId, Fingerprint]) -> set[BlobId]:
    """Return the blobs that a repair has made for clusters that no blob owned."""
    return {
        blob_id
        for blob_id, found in blobs.items()
        if found.xattrs.get("name", b"").startswith(b"unowned clusters ")
    }


def _path(parents: Mapping[BlobId, BlobId | None], blob_id: BlobId) -> list[BlobId]:
    """Return the blob and all that it reads through."""
    path, at = [blob_id], parents[blob_id]
    while at is not None:
        path.append(at)
        at = parents[at]
    return path


@lru_cache(16)
def _contents(content: bytes, atomic: int) -> dict[BlobId, Fingerprint]:
    try:
        return fingerprints(content, atomic_write_size=atomic)
    except BlobstoreError:
        return {}


@cache
def _whole_contents(atomic: int) -> dict[BlobId, bytes]:
    """Return what the sample's small blobs hold, but for the clone of an external snapshot."""
    sound = sample(atomic)
    found: dict[BlobId, bytes] = {}
    disk = SimulatedDisk(sound.clean, atomic_write_size=atomic)
    with Blobstore.open(SimulatedDevice(disk), read_only=True) as store:
        for name, blob_id in sound.names.items():
            if name != "external":
                with store.open_blob(blob_id) as blob:
                    if blob.size <= _READ_MAX:
                        found[blob_id] = blob.read(blob.size, 0)
    return found
