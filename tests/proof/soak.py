"""`python -m tests.proof.soak`: a worker on a real image is killed, again and again.

After every SIGKILL the store is opened, and every blob compared with what the
worker's log says: what was acknowledged as durable must be there, and what was
written since, or was in progress, may be. Ownership of pages and clusters is
audited, on the image as the kill left it and after a clean unload. The same
image goes on into the next round, mostly.

The directory of a round that failed is kept, and judged again with `--judge`.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from blobstore import Blobstore, BlobstoreError, check
from blobstore.testing.expectation import (
    BLOCK,
    ZERO_BLOCK,
    Expectation,
    ExpectedBlob,
    FoundBlob,
    FoundStore,
    Meta,
    either,
)
from blobstore.testing.inspect_store import BrokenStoreError, load_checked
from blobstore.testing.simulated_disk import SimulatedDisk
from tests.proof.soak_worker import (
    BLOCKS_PER_CLUSTER,
    CLUSTER,
    NAME,
    Record,
    name_of,
    stamped,
)

_SIZE: Final = 3 << 20
_MD_PAGES: Final = 96
_NEW_IMAGE: Final = 0.05
_KILLED_AT_ONCE: Final = 0.1
_LONGEST_WORK_S: Final = 0.5
_LONGEST_START_S: Final = 0.4
_UNUSED: Final = 1 << 20
"""Numbers that a round may use for blobs and writes."""


class Ledger:
    """What the log says that a store may hold; blobs are known by their names."""

    def __init__(self, expected: Expectation) -> None:
        self.expected = expected
        self.acknowledged = 0

    def replay(self, log: Path) -> None:
        """Read the log to its end; what was begun and not acknowledged may have happened."""
        pending: dict[int, Record] = {}
        for entry in _entries(log):
            if "do" in entry:
                pending[entry["who"]] = entry["do"]
                continue
            record = pending.pop(entry["who"])
            if entry["done"]:
                self.acknowledged += 1
                self._apply(self.expected, record)
        for record in pending.values():
            after = self.expected.copy()
            self._apply(after, record)
            self.expected = either(self.expected, after)

    def _apply(self, expected: Expectation, record: Record) -> None:
        kind, *arguments = record
        handler: Callable[..., None] = getattr(self, f"_do_{kind}")
        handler(expected.blobs, *arguments)

    @staticmethod
    def _do_write(
        blobs: dict[int, ExpectedBlob], name: int, first: int, count: int, stamp: int
    ) -> None:
        for block in range(first, first + count):
            blobs[name].write(block, stamped(stamp, block))

    @staticmethod
    def _do_zero(blobs: dict[int, ExpectedBlob], name: int, first: int, count: int) -> None:
        for block in range(first, first + count):
            blobs[name].write(block, ZERO_BLOCK)

    @staticmethod
    def _do_flush(blobs: dict[int, ExpectedBlob], *names: int) -> None:
        for name in names:
            blobs[name].flushed()

    @staticmethod
    def _do_xattr(blobs: dict[int, ExpectedBlob], name: int, key: str, value: str) -> None:
        meta = blobs[name].meta
        xattrs = {**dict(meta.xattrs), key: value.encode()}
        blobs[name].versions.append(replace(meta, xattrs=tuple(xattrs.items())))

    @staticmethod
    def _do_remove(blobs: dict[int, ExpectedBlob], name: int, key: str) -> None:
        meta = blobs[name].meta
        xattrs = tuple((k, value) for k, value in meta.xattrs if k != key)
        blobs[name].versions.append(replace(meta, xattrs=xattrs))

    @staticmethod
    def _do_resize(blobs: dict[int, ExpectedBlob], name: int, count: int) -> None:
        meta = replace(blobs[name].meta, cluster_count=count)
        blobs[name].change(meta, blocks_per_cluster=BLOCKS_PER_CLUSTER)

    @staticmethod
    def _do_read_only(blobs: dict[int, ExpectedBlob], name: int) -> None:
        blobs[name].versions.append(replace(blobs[name].meta, read_only=True))
        blobs[name].flushed()

    @staticmethod
    def _do_create(blobs: dict[int, ExpectedBlob], name: int, count: int) -> None:
        blocks = [ZERO_BLOCK] * (count * BLOCKS_PER_CLUSTER)
        meta = Meta(count, _named(name))
        blobs[name] = ExpectedBlob([meta], [{block} for block in blocks], blocks)

    @staticmethod
    def _do_delete(blobs: dict[int, ExpectedBlob], name: int) -> None:
        gone = blobs.pop(name)
        for blob in blobs.values():
            if blob.meta.parent == name:
                _move(blob, gone.meta.parent)

    @staticmethod
    def _do_snapshot(blobs: dict[int, ExpectedBlob], name: int, new: int) -> None:
        blobs[name].flushed()
        blobs[new] = deepcopy(blobs[name])
        blobs[new].versions = [replace(blobs[name].meta, xattrs=_named(new), read_only=True)]
        _move(blobs[name], new)

    @staticmethod
    def _do_clone(blobs: dict[int, ExpectedBlob], name: int, new: int) -> None:
        meta = replace(blobs[name].meta, xattrs=_named(new), read_only=False, parent=name)
        blobs[new] = deepcopy(blobs[name])
        blobs[new].versions = [meta]

    @staticmethod
    def _do_inflate(blobs: dict[int, ExpectedBlob], name: int) -> None:
        _move(blobs[name], None)

    @staticmethod
    def _do_decouple(blobs: dict[int, ExpectedBlob], name: int) -> None:
        parent = blobs[name].meta.parent
        assert parent is not None
        _move(blobs[name], blobs[parent].meta.parent)


def _named(name: int) -> tuple[tuple[str, bytes], ...]:
    return ((NAME, str(name).encode()),)


def _move(blob: ExpectedBlob, parent: int | None) -> None:
    blob.versions.append(replace(blob.meta, parent=parent))
    blob.flushed()


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that were written whole."""
    if log.exists():
        for line in log.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


@dataclass(slots=True)
class Counts:
    """What a soak has seen; `missing` counts the rounds in which something was wrong."""

    kills: int = 0
    acknowledged: int = 0
    compared: int = 0
    missing: int = 0


@dataclass(slots=True)
class Soak:
    """An image in a directory, and the workers that are killed on it."""

    directory: Path
    rng: random.Random
    counts: Counts = field(default_factory=Counts)

    @property
    def image(self) -> Path:
        """The store."""
        return self.directory / "image"

    @property
    def before(self) -> Path:
        """The store as it was before the last worker."""
        return self.directory / "image.before"

    @property
    def log(self) -> Path:
        """What the last worker did."""
        return self.directory / "log"

    def round(self) -> str | None:
        """Let a worker work, kill it, and judge; say what is wrong, or None."""
        if not self.image.exists() or self.rng.random() < _NEW_IMAGE:
            Blobstore.create(
                self.image, size=_SIZE, cluster_size=CLUSTER, md_pages=_MD_PAGES, overwrite=True
            ).close()
        return self.kill_a_worker() or self.judge()

    def kill_a_worker(self) -> str | None:
        """Run a worker and kill it at a random moment; say so if it ended by itself."""
        shutil.copyfile(self.image, self.before)
        self.log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.proof.soak_worker"]
        seed, first = self.rng.randrange(1 << 32), (self.counts.kills + 1) * _UNUSED
        options = ["--seed", str(seed), "--first", str(first), str(self.image), str(self.log)]
        worker = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with worker:
            assert worker.stdout is not None
            assert worker.stderr is not None
            if self.rng.random() < _KILLED_AT_ONCE:
                time.sleep(self.rng.uniform(0, _LONGEST_START_S))
            else:
                worker.stdout.readline()
                time.sleep(self.rng.uniform(0, _LONGEST_WORK_S))
            worker.kill()
            trouble = worker.stderr.read().decode()
        self.counts.kills += 1
        return f"the worker ended by itself:\n{trouble}" if worker.returncode >= 0 else None

    def judge(self) -> str | None:
        """Open what the kill left, compare it with the log, and say what is wrong, or None."""
        try:
            _ids, start = _audited(self.before)
            ledger = Ledger(_as_expectation(start))
            ledger.replay(self.log)
            names, found = _audited(self.image)
            self.counts.acknowledged += ledger.acknowledged
            self.counts.compared += len(found.blobs)
            return ledger.expected.problem(found) or self._reopen(names, found)
        except (BrokenStoreError, BlobstoreError, AssertionError) as error:
            return f"{type(error).__name__}: {error}"

    def _reopen(self, names: Mapping[int, int], found: FoundStore) -> str | None:
        """Open the image as anybody does; half the time leave it clean."""
        stays_dirty = self.rng.random() < 0.5
        with Blobstore.open(self.image, read_only=stays_dirty) as store:
            if store.blob_ids() != sorted(names):
                return f"blobs {store.blob_ids()}, expected {sorted(names)}"
            for blob_id, name in names.items():
                with store.open_blob(blob_id) as blob:
                    if name_of(blob) != name or blob.read(blob.size) != found.blobs[name].content:
                        return f"blob {name}: the public interface reads something else"
        if stays_dirty:
            return None
        return None if _audited(self.image)[1] == found else "the unload changed something"


def _audited(image: Path) -> tuple[dict[int, int], FoundStore]:
    """Check an image and audit it in memory; return the blobs' names by id, and what is there."""
    loaded = load_checked(SimulatedDisk(image.read_bytes()))
    if loaded is None:
        raise BrokenStoreError("there is no store")
    report = check(image)
    if not report.clean:
        raise BrokenStoreError("; ".join(str(finding) for finding in report.findings))
    found = loaded[1]
    names = {blob_id: int(dict(blob.meta.xattrs)[NAME]) for blob_id, blob in found.blobs.items()}
    blobs: dict[int, FoundBlob] = {}
    for blob_id, blob in found.blobs.items():
        parent = None if blob.meta.parent is None else names[blob.meta.parent]
        blobs[names[blob_id]] = FoundBlob(replace(blob.meta, parent=parent), blob.content)
    return names, FoundStore(blobs, found.super_blob, found.size_bytes)


def _as_expectation(found: FoundStore) -> Expectation:
    """Expect what was found, and nothing else."""
    expected = Expectation(super_blobs={found.super_blob}, sizes={found.size_bytes})
    for name, blob in found.blobs.items():
        content = blob.content
        blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
        expected.blobs[name] = ExpectedBlob([blob.meta], [{block} for block in blocks], blocks)
    return expected


def soak(directory: Path, *, kills: int, seed: int) -> Counts:
    """Kill so many workers; stop at the first round after which something is wrong."""
    running = Soak(directory, random.Random(seed))
    began = time.monotonic()
    counts = running.counts
    while counts.kills < kills and not counts.missing:
        problem = running.round()
        if problem is not None:
            counts.missing += 1
            print(f"BAD seed {seed}, kill {counts.kills}, kept in {directory}: {problem}")
    print(
        f"{counts.kills} kills, {counts.acknowledged} operations acknowledged, "
        f"{counts.compared} blobs compared, {counts.missing} missing, "
        f"{time.monotonic() - began:.0f} s"
    )
    return counts


def judge_again(directory: Path) -> Counts:
    """Judge what an earlier round has left in its directory, on a copy."""
    with tempfile.TemporaryDirectory() as copy:
        for file in directory.iterdir():
            shutil.copy(file, copy)
        running = Soak(Path(copy), random.Random(0))
        problem = running.judge()
    if problem is not None:
        running.counts.missing += 1
        print(f"BAD, in {directory}: {problem}")
    return running.counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill as many workers as asked for; the exit code is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.soak")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the image lies; a temporary one")
    parser.add_argument("--judge", action="store_true", help="only judge what is in the directory")
    options = parser.parse_args(arguments)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="blobstore-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    if options.judge:
        return 1 if judge_again(directory).missing else 0
    counts = soak(directory, kills=options.kills, seed=options.seed)
    if not counts.missing and options.directory is None:
        shutil.rmtree(directory)
    return 1 if counts.missing else 0


if __name__ == "__main__":
    sys.exit(main())
