"""`python -m tests.proof.stress`: threads and asyncio tasks change stores for a minute each.

Each worker has a blob of its own and a model of it: bytes in memory. It reads, writes, unmaps,
resizes, takes snapshots and deletes old ones, and flushes; whatever it reads must be what its
model says. All workers of one colour share a store. Afterwards `check` finds nothing, another
opening reads what the models say, and the process has no more descriptors and memory than it had
when everything was warm.
"""

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from blobstore import AsyncBlob, AsyncBlobstore, Blob, Blobstore, Severity, check
from blobstore.units import KIB, MIB

CLUSTER: Final = 4 * KIB
CLUSTERS_MAX: Final = 8
_SIZE: Final = 512 * MIB
_MD_PAGES: Final = 16_384
_MOST_BYTES: Final = 2 * CLUSTER
_GROWTH_MAX: Final = 24 * MIB
"""How much memory may come and go in the meantime: the allocator's own, and what is in flight."""

Step = tuple[str, tuple[Any, ...]]
"""A method of a blob, and its arguments; `drop` deletes the oldest snapshot of several."""


class WrongContentError(Exception):
    """A blob does not hold what its model says."""


class Model:
    """What one blob must hold, and the next thing to do with it."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.content = bytearray(CLUSTER)
        self.owned = [False]
        self.parent = bytearray()
        self.snapshots: list[int] = []

    @property
    def size(self) -> int:
        return len(self.content)

    def step(self) -> Step:
        """Choose what comes next."""
        kinds = ["read", "write", "unmap", "resize", "snapshot", "drop", "flush"]
        (kind,) = self.rng.choices(kinds, weights=[40, 30, 8, 6, 2, 4, 10])
        offset = self.rng.randint(0, self.size)
        length = self.rng.randint(0, min(self.size - offset, _MOST_BYTES))
        match kind:
            case "read":
                return "read", (length, offset)
            case "write":
                return "write", (self.rng.randbytes(1) * length, offset)
            case "unmap":
                return "unmap", (offset, length)
            case "resize":
                return "resize", (self.rng.randint(1, CLUSTERS_MAX) * CLUSTER,)
            case "drop" if len(self.snapshots) < 2:
                return "read", (self.size, 0)
        return kind, ()

    def expect(self, step: Step, result: object) -> None:
        """Compare the result of a step, and be what the blob is after it."""
        name, arguments = step
        if name == "read":
            length, offset = arguments
            if result != self.content[offset : offset + length]:
                raise WrongContentError(f"{length} bytes at {offset}")
        elif name == "write":
            self._write(*arguments)
        elif name == "unmap":
            self._unmap(*arguments)
        elif name == "resize":
            self._resize(*arguments)
        elif name == "snapshot":
            self.parent = bytearray(self.content)
            self.owned = [False] * len(self.owned)

    def _write(self, data: bytes, offset: int) -> None:
        self.content[offset : offset + len(data)] = data
        for index in _touched(offset, len(data)):
            self.owned[index] = True

    def _unmap(self, offset: int, length: int) -> None:
        """What the blob owns reads as zeroes; elsewhere a clone goes on reading its parent."""
        for index in _touched(offset, length):
            start = max(offset, index * CLUSTER)
            end = min(offset + length, (index + 1) * CLUSTER)
            if self.owned[index]:
                self.content[start:end] = bytes(end - start)
                if not self.snapshots and end - start == CLUSTER:
                    self.owned[index] = False

    def _resize(self, size: int) -> None:
        """What is added reads as the parent, or as zeroes."""
        before = self.size
        del self.content[size:]
        if size > before:
            inherited = self.parent[before:size]
            self.content += inherited + bytes(size - before - len(inherited))
        self.owned = (self.owned + [False] * CLUSTERS_MAX)[: size // CLUSTER]


def _touched(offset: int, length: int) -> range:
    """Return the clusters that a range lies in."""
    return range(offset // CLUSTER, -(-(offset + length) // CLUSTER)) if length else range(0)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process has of the host."""

    descriptors: int
    memory_bytes: int

    @classmethod
    def now(cls) -> "Usage":
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return cls(len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE"))

    def grown_to(self, later: "Usage") -> list[str]:
        """Say what has grown beyond measure."""
        found = []
        if later.descriptors > self.descriptors:
            found.append(f"{self.descriptors} descriptors have become {later.descriptors}")
        if later.memory_bytes > self.memory_bytes + _GROWTH_MAX:
            found.append(f"{self.memory_bytes} bytes have become {later.memory_bytes}")
        return found


class Load:
    """How long the workers go on: until a time, or for some steps each; and what was used."""

    def __init__(self, *, seconds: float, steps: int) -> None:
        self._seconds = seconds
        self._steps = steps
        self.step_count = 0
        self.failures: list[BaseException] = []

    def rounds(self) -> Iterator[None]:
        """Yield for each step of a worker in one half of the load."""
        end = time.monotonic() + self._seconds / 2
        for number in range(sys.maxsize):
            is_over = time.monotonic() > end if self._seconds else number >= self._steps // 2
            if is_over or self.failures:
                return
            self.step_count += 1
            yield


# Threads


def stress_threads(path: Path, load: Load, models: Sequence[Model]) -> list[str]:
    """Let a thread for each model change one store; return what is wrong."""
    with Blobstore.create(path, size=_SIZE, cluster_size=CLUSTER, md_pages=_MD_PAGES) as store:
        blobs = [store.create_blob(CLUSTER, thin=True) for _model in models]
        pairs = list(zip(blobs, models, strict=True))
        _run_threads(store, load, pairs)
        warm = Usage.now()
        _run_threads(store, load, pairs)
        grown = warm.grown_to(Usage.now())
        ids = [blob.id for blob in blobs]
    return grown + problems_of(path, load, dict(zip(ids, models, strict=True)))


def _run_threads(store: Blobstore, load: Load, pairs: Sequence[tuple[Blob, Model]]) -> None:
    threads = [
        threading.Thread(target=_guarded, args=(load, _work, store, load, blob, model))
        for blob, model in pairs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _guarded(load: Load, function: Callable[..., None], *arguments: Any) -> None:
    try:
        function(*arguments)
    except BaseException as error:
        load.failures.append(error)


def _work(store: Blobstore, load: Load, blob: Blob, model: Model) -> None:
    for _round in load.rounds():
        name, arguments = step = model.step()
        result: object = None
        if name == "snapshot":
            with blob.snapshot() as snapshot:
                model.snapshots.append(snapshot.id)
        elif name == "drop":
            store.delete_blob(model.snapshots.pop(0))
        else:
            result = getattr(blob, name)(*arguments)
        model.expect(step, result)


# Tasks


def stress_tasks(path: Path, load: Load, models: Sequence[Model]) -> list[str]:
    """Let a task for each model change one store; return what is wrong."""
    ids, grown = asyncio.run(_stress_tasks(path, load, models))
    return grown + problems_of(path, load, dict(zip(ids, models, strict=True)))


async def _stress_tasks(
    path: Path, load: Load, models: Sequence[Model]
) -> tuple[list[int], list[str]]:
    creating = AsyncBlobstore.create(path, size=_SIZE, cluster_size=CLUSTER, md_pages=_MD_PAGES)
    async with creating as store:
        blobs = [await store.create_blob(CLUSTER, thin=True) for _model in models]
        pairs = list(zip(blobs, models, strict=True))
        await _run_tasks(store, load, pairs)
        warm = Usage.now()
        await _run_tasks(store, load, pairs)
        return [blob.id for blob in blobs], warm.grown_to(Usage.now())


async def _run_tasks(
    store: AsyncBlobstore, load: Load, pairs: Sequence[tuple[AsyncBlob, Model]]
) -> None:
    tasks = [_work_async(store, load, blob, model) for blob, model in pairs]
    load.failures += [
        found for found in await asyncio.gather(*tasks, return_exceptions=True) if found is not None
    ]


async def _work_async(store: AsyncBlobstore, load: Load, blob: AsyncBlob, model: Model) -> None:
    for _round in load.rounds():
        name, arguments = step = model.step()
        result: object = None
        if name == "snapshot":
            async with blob.snapshot() as snapshot:
                model.snapshots.append(snapshot.id)
        elif name == "drop":
            await store.delete_blob(model.snapshots.pop(0))
        else:
            result = await getattr(blob, name)(*arguments)
        model.expect(step, result)


# What is left


def problems_of(path: Path, load: Load, models: dict[int, Model]) -> list[str]:
    """Look at the store that the workers left."""
    found = [repr(error) for error in load.failures]
    found += [
        finding.message for finding in check(path).findings if finding.severity != Severity.NOTE
    ]
    with Blobstore.open(path, read_only=True) as store:
        for blob_id, model in models.items():
            with store.open_blob(blob_id) as blob:
                if blob.read(blob.size) != model.content:
                    found.append(f"blob {blob_id:#x}: not what its model says")
    return found


def stress(
    kind: str, directory: Path, *, workers: int, seconds: float = 0, steps: int = 0, seed: int = 0
) -> list[str]:
    """Run one kind, `threads` or `tasks`; print a line, and return what is wrong."""
    load = Load(seconds=seconds, steps=steps)
    models = [Model(seed + number) for number in range(workers)]
    run = stress_threads if kind == "threads" else stress_tasks
    problems = run(directory / f"{kind}.img", load, models)
    print(f"{workers} {kind}, {load.step_count} steps: {problems or 'nothing found'}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of the two")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = [
            problem
            for kind, workers in (("threads", given.threads), ("tasks", given.tasks))
            for problem in stress(
                kind, Path(name), workers=workers, seconds=given.seconds, seed=given.seed
            )
        ]
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
