"""`python -m tests.proof.corruptor`: does `check` see what is broken, does `repair` mend it?

Every invariant of CRASH-SAFETY 5 is broken at least once, in both layouts.
"""

import argparse
import sys
from typing import Final

from blobstore import check, repair
from blobstore.errors import BlobstoreError
from blobstore.fsck.finding import Finding, Severity
from tests.proof.corruptions import (
    descriptors,
    extents,
    masks,
    ownership,
    pages,
    relations,
    super_block,
)
from tests.proof.corruptions.catalogue import Corruption, corruptions_of
from tests.proof.corruptions.sample import LAYOUTS, ImageDevice, sample

CORRUPTIONS: Final = corruptions_of(
    super_block, masks, pages, descriptors, extents, ownership, relations
)


def find_all(image: bytes, *, atomic_write_size: int) -> tuple[Finding, ...]:
    """Return what a check finds in a store's bytes."""
    return check(ImageDevice(image, atomic_write_size=atomic_write_size)).findings


def _summary(item: Corruption) -> str:
    numbers = ",".join(map(str, item.invariants))
    state = "dirty" if item.dirty else "clean"
    return f"{numbers:8} {item.severity:5} {item.mode or '-':5} {state} {item.name}"


def _run(item: Corruption, layout: int) -> bool:
    """Print what check and repair say; tell whether the check named what was broken."""
    broken, place = item.break_store(sample(layout))
    findings = find_all(broken, atomic_write_size=layout)
    is_named = any(
        (found.invariant, found.severity) == (item.invariants[0], item.severity)
        and place.is_met_by(found)
        for found in findings
    )
    print(f"{'named     ' if is_named else 'NOT NAMED '} {layout:4} {_summary(item)}")
    for found in findings:
        print(f"    {found} [blob {found.blob}, page {found.page}, cluster {found.cluster}]")
    if item.mode is not None:
        _print_repair(item, broken, layout)
    return is_named


def _print_repair(item: Corruption, broken: bytes, layout: int) -> None:
    device = ImageDevice(broken, atomic_write_size=layout)
    try:
        report = repair(device, item.mode or "all")
    except BlobstoreError as error:
        print(f"    repair {item.mode} failed: {type(error).__name__}: {error}")
        return
    for step in report.repaired:
        print(f"    repair {item.mode}: {step}")
    for left in report.after.findings:
        if left.severity is not Severity.NOTE:
            print(f"    LEFT: {left}")


def main(arguments: list[str] | None = None) -> int:
    """List all corruptions or run them; the exit code is 1 if a check did not see one."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.corruptor")
    parser.add_argument("--run", action="store_true", help="break stores, check and repair them")
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this in their name")
    options = parser.parse_args(arguments)
    chosen = [item for item in CORRUPTIONS if options.only in item.name]
    if not options.run:
        for item in chosen:
            print(_summary(item))
        return 0
    seen = [_run(item, layout) for item in chosen for layout in LAYOUTS]
    print(f"{len(seen)} broken stores, {seen.count(False)} not named")
    return 0 if all(seen) else 1


if __name__ == "__main__":
    sys.exit(main())
