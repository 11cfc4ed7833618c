"""`python -m tests.proof.hostile`: images made to hurt, and what each came to.

Every image is forged clean and dirty. In a process of its own it is opened,
listed and read, dumped, checked, and opened for writing. All must end in an
answer or a typed error, within 2 s of processor time and 0.2 ms for each metadata page in
use, and with no more memory than 64 MiB and 16 times the metadata in use: what the
process's resident size has grown by at most, which counts the arrays of numpy and leaves
the times alone. On a machine shared with others seconds vary by half: a step that took longer
is done once more, and how often that was needed is told.

Stores of 100,000 blobs lie in a file. Of more than 512 blobs, a few of the first
half are read, the highest first, and all stay open until the end.
"""

import argparse
import gc
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from tempfile import NamedTemporaryFile
from typing import Final, NamedTuple

from blobstore.api.blobstore import Blobstore, iter_dump
from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, CorruptError
from blobstore.format.geometry import Geometry
from blobstore.format.page import PAGE_SIZE
from blobstore.format.super_block import SuperBlock
from blobstore.fsck.examine import examine
from blobstore.metadata.masks import bytes_used
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import MIB
from tests.proof.forge import Forge
from tests.proof.hostile_blobs import HOSTILE_BLOBS
from tests.proof.hostile_stores import COSTLY, HOSTILE_STORES, LARGE
from tests.proof.observe import LONGEST_S, HangError, observe, time_limit

IMAGES: Final = HOSTILE_BLOBS | HOSTILE_STORES
LONGEST_MESSAGE: Final = 4096
_MOST_MEMORY: Final = 64 * MIB
_MEMORY_PER_METADATA: Final = 16
_LONGEST_PER_PAGE_S: Final = 0.2e-3
_ADDRESS_SPACE: Final = 3 << 29
_OVERTIME_S: Final = 0.5
_GIVEN_UP_S: Final = 20.0
_TRIED_IN_WRITING: Final = 8
_MOST_TRIES: Final = 2
_READ_EACH: Final = 512
_SPREAD: Final = 16
"""Of a store with more blobs than the one, about half as many as the other are read."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one thing done with an image came to: `outcome` is ok, an error's class, or a failure.

    `problem` is empty where that is as it must be.
    """

    image: str
    clean: bool
    step: str
    outcome: str
    seconds: float
    grown_bytes: int
    problem: str = ""
    tries: int = 1


def forged(name: str, *, clean: bool) -> Forge:
    """Return the store of that name, ready to be put on a device."""
    forge = Forge(clean=clean)
    IMAGES[name](forge)
    return forge


def metadata_in_use(forge: Forge) -> tuple[int, int]:
    """Return how many metadata pages an image uses, its masks included, and their bytes."""
    device = forge.device(read_only=True)
    with suppress(BlobstoreError):
        super_block = SuperBlock.decode(device.read(0, min(4096, device.size_bytes)).ljust(4096))
        geometry = Geometry.of(super_block, device_size=device.size_bytes)
        masks = sum(
            bytes_used(geometry, region, count)
            for region, count in (
                (geometry.used_pages, geometry.md_len),
                (geometry.used_blob_ids, geometry.md_len),
                (geometry.used_clusters, geometry.total_clusters),
            )
        )
        pages = len(forge.packed)
        return pages + masks // PAGE_SIZE, pages * geometry.page_size + masks
    return 0, 0


def memory_for(forge: Forge) -> int:
    """Return how much memory an image may cost, in bytes."""
    _pages, length = metadata_in_use(forge)
    return _MOST_MEMORY + _MEMORY_PER_METADATA * length


def time_for(forge: Forge, limit_s: float = LONGEST_S) -> float:
    """Return how many seconds each step may take, where one page would take `limit_s`."""
    pages, _length = metadata_in_use(forge)
    return limit_s + _LONGEST_PER_PAGE_S * pages


def _open(device: Device) -> None:
    with Blobstore.open(device, read_only=True) as store:
        store.blob_ids()


def _list(device: Device) -> None:
    with Blobstore.open(device, read_only=True) as store:
        for entry in store.list_blobs():
            if entry.error is not None:
                _check_message(entry.error)


def _read(device: Device) -> None:
    with Blobstore.open(device, read_only=True) as store, ExitStack() as stack:
        ids = store.blob_ids()
        if len(ids) > _READ_EACH:
            ids = ids[len(ids) // 2 :: -(len(ids) // _SPREAD)]
            for blob_id in ids:
                with suppress(BlobstoreError):
                    stack.enter_context(store.open_blob(blob_id))
        for message in observe(store, ids).errors.values():
            _check_message(CorruptError(message))


def _read_last(device: Device) -> None:
    """Open the store and its last blob, and read that: what is done with a sound one."""
    with Blobstore.open(device, read_only=True) as store:
        ids = store.blob_ids()
        if ids:
            with store.open_blob(ids[-1]) as blob:
                blob.read(min(blob.size, MIB))


def _dump(device: Device) -> None:
    for _text in iter_dump(device):
        pass


def _check(device: Device) -> None:
    traits = DeviceTraits(device.size_bytes)
    for finding in BlockingDriver(device).run(examine(traits)).findings:
        _check_message(CorruptError(finding.message))


def _write(device: Device) -> None:
    """Change what can be changed, and close: typed refusals are as good as success."""
    with Blobstore.open(device) as store:
        with suppress(BlobstoreError), store.create_blob(store.cluster_size) as blob:
            blob.write(b"new")
        for blob_id in store.blob_ids()[:_TRIED_IN_WRITING]:
            with suppress(BlobstoreError), store.open_blob(blob_id) as blob:
                blob.set_xattr("seen", b"yes")
                blob.sync_md()
                blob.write(b"x")
            with suppress(BlobstoreError):
                store.delete_blob(blob_id)


_STEPS: Final[dict[str, Callable[[Device], None]]] = {
    "open": _open,
    "read last": _read_last,
    "list": _list,
    "read": _read,
    "dump": _dump,
    "check": _check,
    "write": _write,
}


STEPS: Final = tuple(_STEPS)


class _LongMessageError(Exception):
    """An error whose text has no end: it was made of what the image says."""


def _check_message(error: BlobstoreError) -> None:
    if len(error.message) > LONGEST_MESSAGE:
        raise _LongMessageError(f"{len(error.message)} characters: {error.message[:80]}...")


def try_image(name: str, forge: Forge, *, limit_s: float = LONGEST_S) -> Iterator[Step]:
    """Do everything with one image, in a process of its own."""
    limit_s = time_for(forge, limit_s)
    processes = multiprocessing.get_context("fork")
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_do_steps, args=(theirs, forge, name, limit_s))
    process.start()
    theirs.close()
    for step in STEPS:
        found = _receive(ours, _GIVEN_UP_S + 2 * _MOST_TRIES * limit_s)
        if found is None:
            process.kill()
            problem = "the process ended, or had to be ended"
            yield Step(name, forge.clean, step, "died", 0, 0, problem)
            break
        yield found
    process.join()


def _receive(ours: Connection, seconds: float) -> Step | None:
    try:
        if ours.poll(seconds):
            found: Step = ours.recv()
            return found
    except EOFError:
        pass
    return None


def _do_steps(answers: Connection, forge: Forge, name: str, limit_s: float) -> None:
    """Do one step after the other in a fresh process, and send what came of each."""
    bound = memory_for(forge)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE + bound, _ADDRESS_SPACE + bound))
    with _source_of(forge, is_file=name in LARGE) as source:
        gc.freeze()  # the forge is not what is measured
        at_first = _peak_bytes()
        for step in STEPS:
            tried, tries = _try_step(source, step, limit_s), 1
            while tried.seconds > limit_s and tries < _MOST_TRIES and step != "write":
                tried, tries = _try_step(source, step, limit_s), tries + 1
            problem, grown = tried.problem, _peak_bytes() - at_first
            if not problem and tried.seconds > limit_s:
                problem = f"{tried.seconds:.1f} s, at most {limit_s:.1f} expected"
            if not problem and grown > bound:
                problem = f"{grown // MIB} MiB, at most {bound // MIB} expected"
            outcome, seconds = tried.outcome, tried.seconds
            answers.send(Step(name, forge.clean, step, outcome, seconds, grown, problem, tries))


Source = Callable[[bool], Device]
"""Gives a device with the image on it: one that cannot be written to, or one that can."""


@contextmanager
def _source_of(forge: Forge, *, is_file: bool) -> Iterator[Source]:
    """Keep the image in memory, or in a file for as long as it is wanted."""
    if not is_file:
        yield lambda read_only: forge.device(read_only=read_only)
        return
    with NamedTemporaryFile(prefix="hostile-") as file:
        forge.device(read_only=True).write_to(file.name)
        yield lambda read_only: open_device(file.name, read_only=read_only)


class _Tried(NamedTuple):
    outcome: str
    problem: str
    seconds: float


def _try_step(source: Source, step: str, limit_s: float) -> _Tried:
    with closing(source(step != "write")) as device:
        began = time.process_time()
        outcome, problem = _outcome_of(_STEPS[step], device, limit_s)
        return _Tried(outcome, problem, time.process_time() - began)


def _outcome_of(do: Callable[[Device], None], device: Device, limit_s: float) -> tuple[str, str]:
    """Return what a step came to, and what is wrong with that."""
    try:
        with time_limit(limit_s + _OVERTIME_S):
            do(device)
    except BlobstoreError as error:
        is_short = len(error.message) <= LONGEST_MESSAGE
        return type(error).__name__, "" if is_short else "a message without end"
    except (Exception, HangError) as error:
        return "failed", f"{type(error).__name__}: {error}"[:200]
    return "ok", ""


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all images, and print what each came to; the exit code is 1 if one did harm."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.hostile")
    parser.add_argument("--only", default="", help="only images with this in their name")
    parser.add_argument("--small", action="store_true", help="not the stores of 100,000 blobs")
    parser.add_argument(
        "--cheap", action="store_true", help="not what takes long; each clean or dirty, in turn"
    )
    parser.add_argument(
        "--limit", type=float, default=LONGEST_S, help="seconds for each step, and the pages beside"
    )
    parser.add_argument("--json", action="store_true", help="one object for each step")
    options = parser.parse_args(arguments)
    bad = again = 0
    skipped = COSTLY if options.cheap else LARGE.keys() if options.small else set()
    for number, name in enumerate(IMAGES):
        if options.only not in name or name in skipped:
            continue
        forge = forged(name, clean=True)
        for forge.clean in (number % 2 == 0,) if options.cheap else (True, False):
            steps = list(try_image(name, forge, limit_s=options.limit))
            bad += sum(bool(step.problem) for step in steps)
            again += sum(step.tries - 1 for step in steps)
            _print(steps, as_json=options.json)
    if not options.json:
        print(f"{bad} bad; {again} steps were done again")
    return 1 if bad else 0


def _print(steps: list[Step], *, as_json: bool) -> None:
    if as_json:
        for step in steps:
            print(json.dumps(asdict(step)))
        return
    seconds, grown = max(s.seconds for s in steps), max(s.grown_bytes for s in steps)
    outcomes = " ".join(f"{step.step}: {step.outcome};" for step in steps)
    state = "clean" if steps[0].clean else "dirty"
    print(f"{steps[0].image:36} {state} {seconds:5.2f} s {grown // MIB:5} MiB  {outcomes}")
    for step in steps:
        if step.problem:
            print(f"    BAD {step.step}: {step.problem} ({step.seconds:.2f} s)")


if __name__ == "__main__":
    sys.exit(main())
