"""`python -m tests.proof.every_byte`: every metadata byte, set to five wrong values.

Each byte of the metadata in use, of stores small enough for that, is set to 0,
to 255, has its lowest, its highest and all of its bits turned; once with its
page's checksum as it was and once with the right one. The image is then opened
and read as a whole. Nothing but typed errors, nothing slow, and nothing wrong
that goes unsaid: where a blob reads differently without an error, a check must
find one, unless the image is a sound store of other content.
"""

import argparse
import multiprocessing
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError
from blobstore.format.checksum import crc32c
from blobstore.format.descriptors import EXTENT_PAGE
from blobstore.format.geometry import Geometry
from blobstore.format.page import CRC_OFFSET, HEAD, PAGE_SIZE
from blobstore.format.super_block import SUPER_BLOCK_SIZE, SuperBlock
from blobstore.fsck.examine import examine
from blobstore.fsck.finding import Severity
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import PageIndex
from tests.proof.image_device import ImageDevice
from tests.proof.legal import flaw_of
from tests.proof.observe import HangError, Seen, observe, time_limit
from tests.proof.small_stores import SmallStore, open_small, small_stores

VERDICTS: Final = (
    "same", "refused", "told", "checked", "leaked", "cut", "lawful", "SILENT", "CRASH", "HANG",
)  # fmt: skip
"""What a case can come to; the last three are failures of the package.

same: every blob reads as before. refused: the store does not open. told: an
error names every blob that does not. checked: a check finds an error. leaked:
it finds that what the damage hides is owned by nobody. cut: a
page with a wrong checksum that a power cut can leave, so it is free
(CRASH-SAFETY 4 a, b). lawful: the image is a sound store of other content.
"""

_BAD: Final = frozenset({"SILENT", "CRASH", "HANG"})
_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\d+")
_BYTES_PER_JOB: Final = 256


class Region(NamedTuple):
    """A piece of metadata in use; all but masks have a checksum in their last four bytes."""

    kind: str
    offset: int
    length: int
    has_crc: bool


class Case(NamedTuple):
    """One byte of one store, what it becomes, and whether the checksum is made right."""

    store: int
    region: int
    at: int
    value: int
    fixed: bool


@dataclass(slots=True)
class Tally:
    """Verdicts by store, kind of region and checksum; failures, with a case of each."""

    counts: Counter[tuple[str, str, bool, str]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Case] = field(default_factory=dict)

    def add(self, other: "Tally") -> None:
        """Take over what another one counted."""
        self.counts.update(other.counts)
        self.failures.update(other.failures)
        self.examples = other.examples | self.examples

    def add_failure(self, case: Case, what: str) -> None:
        """Count a failure with those that differ from it in numbers only."""
        alike = _NUMBER.sub("#", what)
        self.failures[alike] += 1
        self.examples.setdefault(alike, case)

    @property
    def bad_count(self) -> int:
        """How many cases failed."""
        return sum(count for key, count in self.counts.items() if key[3] in _BAD)


def regions_of(store: SmallStore) -> list[Region]:
    """Return the super block, the masks that are written, and all pages that are not zero.

    Of a larger page only the structure counts: nobody reads what follows it.
    """
    super_block = SuperBlock.decode(store.image)
    geometry = Geometry.of(super_block, device_size=len(store.image))
    regions = [Region("super block", 0, SUPER_BLOCK_SIZE, True)]
    masks = (geometry.used_pages, geometry.used_clusters, geometry.used_blob_ids)
    for mask in masks if super_block.clean else ():
        if mask.length:
            regions.append(Region("mask", geometry.region_offset(mask), PAGE_SIZE, False))
    for number in range(geometry.md_len):
        at = geometry.page_offset(PageIndex(number))
        page = store.image[at : at + PAGE_SIZE]
        if any(page):
            regions.append(Region(_kind_of(page), at, PAGE_SIZE, True))
    return regions


def _kind_of(page: bytes) -> str:
    if page[HEAD.size] == EXTENT_PAGE:
        return "extent page"
    return "chain page" if any(page[8:12]) else "root"


class Bench:
    """One store, damaged and mended over and over."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.store = small_stores()[number]
        self.regions = regions_of(self.store)
        self.image = bytearray(self.store.image)
        super_block = SuperBlock.decode(self.image)
        self.believes_masks = super_block.clean and super_block.used_blob_ids.length > 0
        self.right = self._look()

    def cases(self, region: int, at: int) -> Iterator[Case]:
        """Yield all cases of one byte; those that change nothing are left out."""
        offset, length, has_crc = self.regions[region][1:]
        now = self.image[offset + at]
        for value in sorted({0x00, 0xFF, now ^ 0x01, now ^ 0x80, now ^ 0xFF} - {now}):
            yield Case(self.number, region, at, value, False)
            if has_crc and at < length - 4:
                yield Case(self.number, region, at, value, True)

    def try_case(self, case: Case) -> tuple[str, str]:
        """Damage the image, judge what comes of it, and mend it: (verdict, details)."""
        offset = self.regions[case.region].offset
        before = bytes(self.image[offset : offset + PAGE_SIZE])
        self.image[offset + case.at] = case.value
        if case.fixed:
            view = memoryview(self.image)[offset : offset + CRC_OFFSET]
            self.image[offset + CRC_OFFSET : offset + PAGE_SIZE] = crc32c(view).to_bytes(
                4, "little"
            )
            del view
        try:
            with time_limit():
                return self._judge(case, before)
        except HangError as error:
            return "HANG", str(error)
        except Exception as error:
            return "CRASH", repr(error)
        finally:
            self.image[offset : offset + PAGE_SIZE] = before

    def _look(self) -> Seen:
        try:
            with open_small(self.store, self.image) as store:
                return observe(store)
        except BlobstoreError as error:
            return Seen(refusal=error.message)

    def _judge(self, case: Case, before: bytes) -> tuple[str, str]:
        seen = self._look()
        if seen.refusal is not None:
            return "refused", seen.refusal
        wrong = seen.silent_differences(self.right)
        if not wrong:
            return ("told" if seen.errors else "same"), ""
        checked = verdict_of_check(self.image, self.store.atomic_write_size)
        if checked is not None:
            return checked, ""
        flaw = flaw_of(self.image)
        if flaw is not None:
            return ("cut", "") if self._leads_to_nothing(case) else ("SILENT", flaw)
        has_crc = self.regions[case.region].has_crc
        if case.fixed or not has_crc:
            return "lawful", ""
        return ("SILENT", "a wrong checksum") if self.believes_masks else ("cut", "")

    def _leads_to_nothing(self, case: Case) -> bool:
        """Tell whether a root leads to an empty page now: recovery finishes such a delete."""
        region = self.regions[case.region]
        if self.believes_masks or region.kind != "root":
            return False
        link = region.offset + PAGE_SIZE - 8
        page = int.from_bytes(self.image[link : link + 4], "little")
        geometry = Geometry.of(SuperBlock.decode(self.image), device_size=len(self.image))
        if page >= geometry.md_len:
            return False
        at = geometry.page_offset(PageIndex(page))
        return not any(self.image[at : at + PAGE_SIZE])


def verdict_of_check(image: bytearray, atomic_write_size: int) -> str | None:
    """Return the verdict where a check of the image has an error, or a leak at least."""
    device = ImageDevice(image, atomic_write_size=atomic_write_size, read_only=True)
    traits = DeviceTraits(device.size_bytes, atomic_write_size=atomic_write_size)
    severities = {f.severity for f in BlockingDriver(device).run(examine(traits)).findings}
    if Severity.ERROR in severities:
        return "checked"
    return "leaked" if Severity.LEAK in severities else None


@cache
def _bench(number: int) -> Bench:
    return Bench(number)


def try_all(cases: Iterable[Case]) -> Tally:
    """Try cases one after the other, and count what they came to."""
    tally = Tally()
    for case in cases:
        bench = _bench(case.store)
        verdict, details = bench.try_case(case)
        kind = bench.regions[case.region].kind
        tally.counts[bench.store.name, kind, case.fixed, verdict] += 1
        if verdict in _BAD:
            tally.add_failure(case, f"{verdict}: {details}")
    return tally


def sample(count: int, *, seed: int, stores: int) -> Iterator[Case]:
    """Yield seeded cases: of any store any region, any byte of it, any of its values."""
    rng = random.Random(seed)
    for _ in range(count):
        bench = _bench(rng.randrange(stores))
        region = rng.randrange(len(bench.regions))
        at = _telling_byte(rng, bench, region)
        yield rng.choice(list(bench.cases(region, at)))


def _telling_byte(rng: random.Random, bench: Bench, region: int) -> int:
    """Choose any byte, or, every other time, one that is not zero: there are few of them."""
    at = rng.randrange(bench.regions[region].length)
    if rng.random() < 0.5:
        offset = bench.regions[region].offset
        page = bench.image[offset : offset + PAGE_SIZE]
        at = rng.choice([number for number, byte in enumerate(page) if byte] or [at])
    return at


class Job(NamedTuple):
    """A few hundred bytes of one region; `cases` instead of them where a sample is tried."""

    store: int = 0
    region: int = 0
    first: int = 0
    cases: tuple[Case, ...] = ()


def _jobs(stores: int, seed: int) -> list[Job]:
    """Return all there is to do in any order: who interrupts it has seen some of everything."""
    jobs = [
        Job(store, number, first)
        for store in range(stores)
        for number, region in enumerate(_bench(store).regions)
        for first in range(0, region.length, _BYTES_PER_JOB)
    ]
    random.Random(seed).shuffle(jobs)
    return jobs


def _do(job: Job) -> Tally:
    if job.cases:
        return try_all(job.cases)
    bench = _bench(job.store)
    places = range(job.first, job.first + _BYTES_PER_JOB)
    return try_all(case for at in places for case in bench.cases(job.region, at))


def _sample_jobs(count: int, seed: int, stores: int) -> Iterator[Job]:
    cases = list(sample(count, seed=seed, stores=stores))
    for at in range(0, len(cases), _BYTES_PER_JOB):
        yield Job(cases=tuple(cases[at : at + _BYTES_PER_JOB]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all cases or a sample, and print the counts; the exit code is 1 if one is bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.every_byte")
    everything = len(small_stores())
    parser.add_argument("--stores", type=int, default=everything, help="only the first so many")
    parser.add_argument("--sample", type=int, default=0, help="only so many cases, by chance")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args(arguments)
    stores = max(1, min(options.stores, everything))
    if options.sample:
        jobs = list(_sample_jobs(options.sample, options.seed, stores))
    else:
        jobs = _jobs(stores, options.seed)
    began = time.monotonic()
    total, done = _do_all(jobs, options.jobs)
    _print_table(total)
    for what, count in total.failures.most_common():
        print(f"{count} times {what}\n    as in {total.examples[what]}")
    cases, seconds = total.counts.total(), time.monotonic() - began
    share = "" if done == len(jobs) else f" ({done} of {len(jobs)} parts: interrupted)"
    print(f"{cases} cases{share}, {total.bad_count} bad, {seconds:.0f} s with {options.jobs} jobs")
    return 1 if total.bad_count else 0


def _do_all(jobs: Sequence[Job], processes: int) -> tuple[Tally, int]:
    """Do all jobs, or as many as there are before an interrupt; return how many that were."""
    total, done = Tally(), 0
    with multiprocessing.Pool(processes, _ignore_interrupts) as pool, suppress(KeyboardInterrupt):
        for tally in pool.imap_unordered(_do, jobs):
            total.add(tally)
            done += 1
    return total, done


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _print_table(total: Tally) -> None:
    rows = sorted({key[:3] for key in total.counts})
    print(f"{'store':12} {'region':12} {'crc':5} " + " ".join(f"{v:>8}" for v in VERDICTS))
    for name, kind, fixed in rows:
        counts = " ".join(f"{total.counts[name, kind, fixed, v]:8}" for v in VERDICTS)
        print(f"{name:12} {kind:12} {'right' if fixed else 'as is':5} {counts}")
    sums = [sum(n for key, n in total.counts.items() if key[3] == v) for v in VERDICTS]
    print(f"{'all':31} " + " ".join(f"{count:8}" for count in sums))


if __name__ == "__main__":
    sys.exit(main())
