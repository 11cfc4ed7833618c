"""Traces of the original, replayed: the same answers, or a difference with a name.

A trace is a long random script with the original's answer to every line. Blobs
get other ids here where a page is not claimable yet, so ids are compared
through a map that every creation extends. Numbers of pages and clusters are
not compared, but how many there are is. Where an answer may differ, `rows_of`
says under which name of docs/COMPATIBILITY.md.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from blobstore import Blob
from blobstore.alloc.leaves import LEAF_SIZE
from blobstore.blob.resolve import resolve_owner
from blobstore.format.chain import ChainSize
from blobstore.format.descriptors import (
    EXTENT_TABLE,
    HAS_EXTENT_TABLE,
    RUNS_HEAD_SIZE,
    TABLE_HEAD_SIZE,
    split_descriptors,
)
from blobstore.format.page import MetadataPage
from blobstore.format.root import Layout
from blobstore.metadata.blob_state import BlobState
from blobstore.testing.internals import core_of, device_of
from blobstore.units import BlobId, PageIndex, ceil_div
from tests.replay import COMPACT, Line, Replay
from tests.shared import shared
from tests.traces.departures import Apart, Departed, Unsynced

Facts = dict[str, Any]

EPERM: Final = 1
ENOMEM: Final = 12
_GHOST: Final = 1 << 63
CREATING: Final = ("create", "snapshot", "clone")
CHANGING: Final = ("set_xattr", "rm_xattr", "resize", "set_ro")
WRITING: Final = ("write", "writev", "write_zeroes", "unmap")
SYNCING: Final = ("sync", "close", "snapshot", "inflate", "decouple", "set_parent")
ALLOCATION: Final = ("num_allocated_clusters", "cluster_runs", "extent_pages")
# What is counted of the device, and what nothing here corresponds to: which blobs are opened
# while loading is nobody's business, the hash of a device in between is compared at the end,
# and whether an external snapshot is missing is asked of those who register some.
NOT_COMPARED: Final = frozenset(
    {"cmd", "devops", "io", "err", "crc32c", "is_degraded", "loaded", "sha256_of_device"}
)


@dataclass(frozen=True)
class Mismatch:
    """A fact of one line that is neither the original's nor a difference with a name."""

    number: int
    line: str
    key: str
    wanted: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.number}: {self.line}: {self.key}: {self.found!r}, expected {self.wanted!r}"


@dataclass
class Verdict:
    """What came of one trace."""

    name: str
    lines: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    mismatches: list[Mismatch] = field(default_factory=list)
    ended_by: str = ""
    same_image: bool = False
    same_metadata: bool = False

    def __str__(self) -> str:
        rows = ", ".join(f"{row} {count}" for row, count in sorted(self.rows.items()))
        image = "image" if self.same_image else "metadata" if self.same_metadata else "nothing"
        told = f"{len(self.mismatches)} mismatches" if self.mismatches else "agrees"
        told += f" up to {self.ended_by}" if self.ended_by else ""
        return f"{self.name}: {self.lines} lines, {told}; byte-identical: {image}; rows: {rows}"


class Ids:
    """Which blob here is which blob of the original, and what the script calls it."""

    def __init__(self) -> None:
        self._originals: dict[int, int] = {}
        self._named: dict[str, int] = {}

    def learn(self, *, original: int, ours: int, name: str | None) -> None:
        """Take note of a blob that both have just made."""
        self._originals[ours] = original
        self._named[str(original)] = original
        if name is not None:
            self._named[name] = original

    def forget(self, original: int) -> None:
        """Take note of a blob that both have just deleted."""
        kept = {key: value for key, value in self._originals.items() if value != original}
        self._originals = kept

    def names(self) -> dict[str, int]:
        """Return what the script's names and numbers stand for here.

        The number of a deleted blob can name another one in the original; one
        that names none there names none here.
        """
        ours = {value: key for key, value in self._originals.items()}
        return {name: ours.get(id_, _GHOST | id_) for name, id_ in self._named.items()}

    def named(self, name: str) -> int:
        """Return the original's id of what the script calls so."""
        return self._named.get(name, -1)

    def original(self, ours: int | str | None) -> Any:
        """Return the original's id of a blob here; what is no blob's id stays."""
        return self._originals.get(ours, ours & ~_GHOST) if isinstance(ours, int) else ours

    def ours(self, originals: Iterable[int]) -> list[int]:
        """Return what these blobs of the original are here."""
        return [key for key, value in self._originals.items() if value in originals]

    def translate(self, facts: Facts) -> Facts:
        """Return what was found here in the original's ids."""
        translated = dict(facts)
        for key in ("id", "super_blob", "parent", "parent_snapshot"):
            if key in facts:
                translated[key] = self.original(facts[key])
        for key in ("clones", "ids"):
            if key in facts:
                translated[key] = sorted(self.original(item) for item in facts[key])
        if "internal_xattrs" in facts:
            translated["internal_xattrs"] = [
                [name, self._value(name, value)] for name, value in facts["internal_xattrs"]
            ]
        if "blobs" in facts:
            blobs = [self.translate(blob) for blob in facts["blobs"]]
            translated["blobs"] = sorted(blobs, key=lambda blob: int(blob["id"]))
        return translated

    def _value(self, name: str, value: str) -> str:
        if name == "EXTSNAP":
            return value
        wanted: int = self.original(int.from_bytes(bytes.fromhex(value), "little"))
        return wanted.to_bytes(8, "little").hex()


def counted(facts: Facts) -> Facts:
    """Replace numbers of pages and clusters by how many there are; drop what is not compared."""
    kept = {key: value for key, value in facts.items() if key not in NOT_COMPARED}
    if "md_pages" in kept:
        kept["md_pages"] = len(kept["md_pages"])
        kept["extent_pages"] = [page != 0 for page in kept["extent_pages"]]
        kept["cluster_runs"] = [
            (allocated, sum(count for _first, count in runs))
            for allocated, runs in groupby(kept["cluster_runs"], key=lambda run: run[0] != 0)
        ]
    if "clones" in kept:
        kept["clones"] = sorted(kept["clones"])
    if "blobs" in kept:
        for blob in kept.pop("blobs"):
            for key, value in counted(blob).items():
                kept[f"blob {blob['id']:#x} {key}"] = value
    return kept


class Comparison:
    """One trace on its way."""

    def __init__(self, name: str, trace: Facts, *, atomic_write_size: int = COMPACT) -> None:
        self.replay = Replay(atomic_write_size=atomic_write_size, write_through=True)
        self.verdict = Verdict(name)
        self._layout = Layout.SECTOR if atomic_write_size < COMPACT else Layout.COMPACT
        self._trace = trace
        self._io_unit = trace["geometry"]["blocklen"]
        self._cluster = trace["geometry"]["cluster_sz"]
        self._ids = Ids()
        self._departed = Departed(
            units_per_cluster=self._cluster // self._io_unit,
            unmaps="unmap=none" not in trace["script"][0],
        )
        self._unsynced = Unsynced()
        self._super_blob_deleted = False
        self._more_free = self._more_free_now = self._cut = 0

    def run(self) -> Verdict:
        for number, (line, answer) in enumerate(
            zip(self._trace["script"], self._trace["results"], strict=True)
        ):
            self._compare(number, line, answer)
            if self.verdict.mismatches or self.verdict.ended_by:
                break
        content = self.replay.the_device().content()
        end = self.replay.run("hash")
        sha256 = hashlib.sha256(content).hexdigest()
        self.verdict.same_image = sha256 == self._trace["final_image_sha256"]
        self.verdict.same_metadata = end.get("md_sha256") == self._trace["final_md_sha256"]
        return self.verdict

    def _compare(self, number: int, text: str, answer: Facts) -> None:
        line = Line.parse(text)
        self._note_deleted_super_blob(line)
        new = self._clusters_to_allocate(line)
        self._cut = self._clusters_cut_off(line)
        chain, cut_pages = self._chain_length(line), self._pages_cut_off(line)
        found = self.replay.run(text)
        if answer["rc"] == found["rc"] == 0:
            self._note_unsynced(line, chain, cut_pages)
            if new:
                self._mark_new(line, new)
            self._learn(line, answer, found)
        self.verdict.lines += 1
        wanted, seen = counted(answer), counted(self._ids.translate(found))
        if line.command == "hash":
            wanted, seen = {"rc": wanted["rc"]}, {"rc": seen["rc"]}
        self._more_free_now = seen.get("free", 0) - wanted.get("free", 0)
        for key in wanted:
            if seen.get(key) != wanted[key]:
                row = self._row_of(line, key, wanted[key], seen.get(key))
                if row:
                    self.verdict.rows[row] += 1
                else:
                    self.verdict.mismatches.append(
                        Mismatch(number, text, key, wanted[key], seen.get(key))
                    )
        if "free" in wanted:
            self._more_free = self._more_free_now
        if line.command in SYNCING and line.arguments:
            self._departed.shrunk.discard(self._blob_of(line))
            self._unsynced.sync(self._blob_of(line))
        if line.command in ("unload", "load"):
            self._unsynced.sync_all()

    # What is learnt from a line that both performed

    def _clusters_to_allocate(self, line: Line) -> list[int]:
        """Return where a line makes clusters that have nothing to be copied to them."""
        if line.command not in ("write", "writev", "write_zeroes", "inflate"):
            return []
        key = self.replay.blob_id(line.arguments[0])
        handles = self.replay.handles.get(key)
        if handles:
            return self._holes(line, handles[-1])
        if line.command != "inflate" or key not in self.replay.the_store().blob_ids():
            return []
        with self.replay.the_store().open_blob(key) as blob:
            return self._holes(line, blob)

    def _holes(self, line: Line, blob: Blob) -> list[int]:
        core = core_of(self.replay.the_store())
        state = core.open_blobs[blob.id]
        count = blob.info.cluster_count
        places = range(count)
        if line.command != "inflate":
            units, per_cluster = self._range_of(line), self._cluster // self._io_unit
            places = range(units.start // per_cluster, -(-units.stop // per_cluster))
            if state.parent is not None:
                places = range(0)  # a clone's new clusters are written whole
        return [at for at in places if at < count and resolve_owner(core, state, at)[0] == 0]

    def _mark_new(self, line: Line, new: list[int]) -> None:
        """Take note of such clusters, also for the clones that read them."""
        changed = [self.replay.blob_id(line.arguments[0])]
        self._departed.mark(self._blob_of(line), new)
        while changed:
            parent = BlobId(changed.pop())
            for clone in core_of(self.replay.the_store()).clones.of(parent):
                self._departed.adopt(self._ids.original(clone), self._ids.original(parent))
                changed.append(clone)

    def _clusters_cut_off(self, line: Line) -> int:
        """Count what a shrink cut off, and a write makes free here."""
        if line.command not in WRITING or self.replay.store is None:
            return 0
        blob_id = BlobId(self.replay.blob_id(line.arguments[0]))
        blob = core_of(self.replay.store).open_blobs.get(blob_id)
        return 0 if blob is None else sum(count for _first, count in blob.cut_runs)

    def _open_state(self, line: Line) -> BlobState | None:
        """Return the open blob that a line is about, as the core has it."""
        if self.replay.store is None or not line.arguments:
            return None
        blob_id = BlobId(self.replay.blob_id(line.arguments[0]))
        return core_of(self.replay.store).open_blobs.get(blob_id)

    def _chain_length(self, line: Line) -> int:
        if line.command not in CHANGING:
            return 0
        blob = self._open_state(line)
        return 0 if blob is None else 1 + len(blob.chain)

    def _pages_cut_off(self, line: Line) -> int:
        """Count the extent pages that a shrink cut off, and a write releases here."""
        blob = self._open_state(line) if line.command in WRITING else None
        return 0 if blob is None else len(blob.cut_extent_pages)

    def _note_unsynced(self, line: Line, chain: int, cut_pages: int) -> None:
        if line.command in CHANGING:
            is_read_only = line.command == "set_ro"
            self._unsynced.change(self._blob_of(line), chain, is_read_only=is_read_only)
        elif line.command in WRITING:
            self._unsynced.write(self._blob_of(line), cut_pages)
        elif line.command == "delete":
            self._unsynced.sync(self._blob_of(line))

    def _learn(self, line: Line, answer: Facts, found: Facts) -> None:
        if line.command in CREATING:
            self._learn_blob(line, answer["id"], found["id"])
        elif line.command == "delete":
            self._ids.forget(self._blob_of(line))
            self._departed.forget(self._blob_of(line))
        elif line.command == "resize":
            blob = self.replay.blob(line.arguments[0])
            thin = blob.info.thin
            self._departed.resize(self._blob_of(line), int(line.arguments[1]), thin=thin)
        elif line.command in ("load", "close", "state"):
            self._departed.tableless.update(map(self._ids.original, self._lost_tables()))
        elif line.command == "set_parent":
            self._departed.adopt(self._blob_of(line), self._ids.named(line.arguments[1]))
        elif line.command == "unmap":
            self._departed.unmap(self._blob_of(line), self._range_of(line))
        elif line.command in WRITING:
            self._departed.write(self._blob_of(line), self._range_of(line))
        self.replay.names = self._ids.names()

    def _learn_blob(self, line: Line, original: int, ours: int) -> None:
        origin = None if line.command == "create" else self._blob_of(line)
        count = line.number("num_clusters") or 0
        if origin is not None:
            count = self._departed.sizes[origin]
        self._ids.learn(original=original, ours=ours, name=line.options.get("as"))
        self._departed.create(
            original,
            count=count,
            thin=line.flag("thin"),
            clears=line.options.get("clear") != "none",
            origin=origin,
        )

    def _lost_tables(self) -> Iterator[int]:
        """Find the closed, empty blobs whose extent table did not fit into their last page."""
        store = self.replay.the_store()
        for key in set(store.blob_ids()) - set(core_of(store).open_blobs):
            with store.open_blob(key) as blob:
                info = blob.info
            if info.extent_table and not info.cluster_count:
                last = PageIndex(info.metadata_pages[-1])
                offset = core_of(store).geometry.page_offset(last)
                page = MetadataPage.decode(device_of(store).read(offset, 4096), at=last)
                if all(kind != EXTENT_TABLE for kind, _ in split_descriptors(page.body, place="")):
                    yield key

    def _note_deleted_super_blob(self, line: Line) -> None:
        if line.command == "set_super":
            self._super_blob_deleted = False
        if line.command == "delete":
            super_blob = self.replay.the_store().info.super_blob
            if super_blob == self.replay.blob_id(line.arguments[0]):
                self._super_blob_deleted = True

    def _blob_of(self, line: Line) -> int:
        return self._ids.named(line.arguments[0])

    def _range_of(self, line: Line) -> range:
        start, length = (int(word) for word in line.arguments[1:3])
        return range(start, start + length)

    # The differences with a name

    def _row_of(self, line: Line, key: str, wanted: Any, found: Any) -> str | None:
        """Name the difference that this is, if it is one."""
        if self.verdict.ended_by:
            return self.verdict.ended_by
        if key == "rc" and found == -EPERM and self._blob_of(line) in self._unsynced.read_only:
            self.verdict.ended_by = "write-through-syncs"  # read-only from the first write on
            return self.verdict.ended_by
        if key == "rc" and (wanted, found) == (0, -ENOMEM) and self._layout is Layout.SECTOR:
            self.verdict.ended_by = "promised-pages"  # its roots hold less; the rest cannot be told
            return self.verdict.ended_by
        if self._layout is Layout.SECTOR and key.split()[-1] in ("md_pages", "used_md_pages"):
            return "sector-layout"
        if key == "super_blob" or (line.command == "get_super" and key in ("rc", "id")):
            is_cleared = self._super_blob_deleted and found in (None, -2)
            return "delete-clears-super" if is_cleared else None
        if key in ("free", "free_clusters"):
            return self._row_of_free(line, found - wanted)
        if key in ("used_md_pages", "used_cluster_bits"):
            return self._row_of_used(key, found - wanted)
        if key == "sha256":
            return self._departed.row_of(self._blob_of(line), self._range_of(line))
        if key.startswith("blob "):
            _word, blob, fact = key.split()
            return self._row_of_fact(int(blob, 0), fact, wanted, found)
        if line.command == "info":
            return self._row_of_fact(self._blob_of(line), key, wanted, found)
        return None

    def _row_of_fact(self, blob: int, fact: str, wanted: Any, found: Any) -> str | None:
        if fact == "is_snapshot" and wanted and not found:
            return "snapshot-without-clones"
        if fact in ALLOCATION and blob in self._departed.regrown:
            return "shrink-is-final"
        if blob in self._departed.tableless and (
            fact in ("use_extent_table", "extent_pages", "md_pages")
            or (fact == "invalid_flags" and wanted ^ found == HAS_EXTENT_TABLE)
        ):
            return "table-that-did-not-fit"
        if fact == "md_pages" and blob in self._departed.regrown:
            return "shrink-is-final"  # it has fewer runs, or extent pages to name
        if fact == "md_pages" and self._unsynced.has_old_chain(blob, wanted):
            return "write-through-syncs"
        if fact in ("is_read_only", "data_ro", "md_ro") and blob in self._unsynced.written:
            return "write-through-syncs" if blob in self._unsynced.read_only else None
        if fact == "sha256":
            end = self._departed.sizes[blob] * self._cluster // self._io_unit
            return self._departed.row_of(blob, range(end))
        return None

    def _row_of_free(self, line: Line, more: int) -> str | None:
        """More or less is free where a shrink is final earlier; that changes with such a blob."""
        row = "shrink-is-final" if self._departed.regrown else "write-through-syncs"
        if more == self._more_free:
            return row
        apart = self._departed.shrunk | self._departed.regrown
        if line.command not in ("iterate", "state", "unload", "load"):
            apart &= {self._blob_of(line)} if line.arguments else set()
        if line.command in WRITING and not self._departed.regrown:
            return row if apart and more == self._more_free + self._cut else None
        return row if apart and (self._departed.regrown or 0 <= more < self._more_free) else None

    # Metadata pages: what each row makes of them

    def _states_of(self, originals: Iterable[int]) -> Iterator[tuple[int, BlobState]]:
        """Yield these blobs of the original, as far as they are there, with what is here."""
        store = self.replay.the_store()
        for key in self._ids.ours(originals):
            with store.open_blob(key):
                yield self._ids.original(key), core_of(store).open_blobs[BlobId(key)]

    def _apart_by_tables(self) -> Apart:
        """The original has runs, and no extent pages, where there is a table here."""
        apart = Apart()
        for _original, blob in self._states_of(self._departed.tableless):
            size = ChainSize.before_extents(
                blob.xattrs_to_write(), root_capacity=self._layout.capacity
            )
            runs = size.pages_with_pairs(len(blob.clusters.runs()), head_size=RUNS_HEAD_SIZE)
            here = 1 + len(blob.metadata_pages)
            apart += Apart.between(here - runs)
        return apart

    def _apart_by_shrinks(self) -> Apart:
        """The original may still have what a shrink cut off here: extent pages, and more runs."""
        apart = Apart()
        for _original, blob in self._states_of(self._departed.regrown):
            count = blob.clusters.count
            is_tabled = blob.extent_pages is not None
            pages = ceil_div(count, LEAF_SIZE) if is_tabled else 0
            size = ChainSize.before_extents(
                blob.xattrs_to_write(), root_capacity=self._layout.capacity
            )
            head_size = TABLE_HEAD_SIZE if is_tabled else RUNS_HEAD_SIZE
            most = size.pages_with_pairs(pages or count, head_size=head_size) + pages
            apart += Apart.between(min(0, 1 + len(blob.metadata_pages) - most))
        return apart

    def _apart_by_writes(self) -> Apart:
        """The original still has the chain from before changes that a write has synced here."""
        apart = Apart()
        for original, blob in self._states_of(self._unsynced.written):
            more = 1 + len(blob.chain) - self._unsynced.chains[original]
            apart += Apart.between(more - self._unsynced.written[original])
        return apart

    def _row_of_pages(self, more: int) -> str | None:
        """Name the rows' consequence for the number of metadata pages in use."""
        causes = {
            "shrink-is-final": self._apart_by_shrinks(),
            "table-that-did-not-fit": self._apart_by_tables(),
            "write-through-syncs": self._apart_by_writes(),
        }
        apart = sum(causes.values(), Apart())
        if not apart.least <= more <= apart.most:
            return None
        return next(row for row, cause in causes.items() if cause != Apart())

    def _row_of_used(self, key: str, more: int) -> str | None:
        if self.replay.store is None:
            return None
        store = core_of(self.replay.store)
        returning = (store.pages if key == "used_md_pages" else store.clusters).pending_count
        if more == returning:
            return "free-after-commit"
        if key == "used_cluster_bits" and more - returning == -self._more_free_now:
            return "shrink-is-final" if self._departed.regrown else "write-through-syncs"
        return self._row_of_pages(more - returning) if key == "used_md_pages" else None


def trace_files() -> list[Path]:
    return sorted(shared("traces").glob("*.json"))


@cache
def read_trace(path: Path) -> Facts:
    found: Facts = json.loads(path.read_bytes())
    return found


def compare(path: Path, *, atomic_write_size: int = COMPACT) -> Verdict:
    """Replay one trace."""
    return Comparison(path.stem, read_trace(path), atomic_write_size=atomic_write_size).run()


def report(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        yield str(verdict)
        yield from (f"    {mismatch}" for mismatch in verdict.mismatches)
    rows = sum((verdict.rows for verdict in verdicts), Counter[str]())
    yield f"agreed: {sum(not verdict.mismatches for verdict in verdicts)} of {len(verdicts)}"
    yield "differences: " + ", ".join(f"{row} {count}" for row, count in sorted(rows.items()))
    for name, same in (
        ("image", [verdict.name for verdict in verdicts if verdict.same_image]),
        ("metadata", [verdict.name for verdict in verdicts if verdict.same_metadata]),
    ):
        yield f"byte-identical {name}: {len(same)} of {len(verdicts)}: {' '.join(same)}"


def main(paths: Sequence[Path]) -> int:
    """Compare the traces, by default all that are shared; 0 says that all agree."""
    verdicts = [compare(path) for path in paths or trace_files()]
    sys.stdout.write("\n".join([*report(verdicts), ""]))
    return int(any(verdict.mismatches for verdict in verdicts))
