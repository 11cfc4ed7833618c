"""The demo's steps, each with the time it took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blobstore import BlobInfo, Blobstore, StoreInfo
from blobstore.cli.copying import fill_new
from blobstore.cli.demo.tarball import make_source
from blobstore.cli.demo.verify import promise_problems, whole_problems
from blobstore.cli.demo.victim import Promise, write_and_kill
from blobstore.cli.files import open_to_read, size_of
from blobstore.units import KIB, MIB, ceil_div, format_size

_CLUSTER_SIZE: Final = 64 * KIB
_FLUSH_EVERY_MAX: Final = 4 * MIB
_FLUSH_COUNT_MIN: Final = 8


@dataclass(frozen=True, slots=True)
class Step:
    """One step that is done; `detail` is what came out of it."""

    name: str
    seconds: float
    detail: str


@dataclass(slots=True)
class Tour:
    """What the demo has done so far, and all that was not as it must be.

    `tell` hears of every step when it is done. `after_kill` gets the image
    before it is recovered; a test does damage there, which must be noticed.
    """

    directory: Path
    tell: Callable[[Step], None] = lambda _step: None
    after_kill: Callable[[Path, Promise], None] = lambda _image, _promise: None
    steps: list[Step] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    store: StoreInfo | None = None
    blobs: list[BlobInfo] = field(default_factory=list)

    def run(self, source: Path | None = None) -> None:
        """Go through all steps, with a file or with the standard library.

        Raises:
            BlobstoreError: A step failed.
        """
        if source is None:
            source = self._make_source()
        image = self.directory / "demo.img"
        self._make_store(image, source.stat().st_size)
        first = self._import(image, source)
        promise = self._write_and_kill(image, source)
        self.after_kill(image, promise)
        self._recover(image)
        self._verify(image, source, first, promise)

    @contextmanager
    def _step(self, name: str) -> Iterator[list[str]]:
        """Time the body, which says in the list what came out."""
        detail: list[str] = []
        start = time.perf_counter()
        yield detail
        step = Step(name, time.perf_counter() - start, ", ".join(detail))
        self.steps.append(step)
        self.tell(step)

    def _make_source(self) -> Path:
        source = self.directory / "source.tar"
        with self._step("pack Python's standard library") as detail:
            make_source(source)
            detail.append(format_size(source.stat().st_size))
        return source

    def _make_store(self, image: Path, length: int) -> None:
        size = ceil_div(length * 5 // 2 + 16 * MIB, MIB) * MIB
        with self._step("make a store in an image file") as detail:
            Blobstore.create(image, size=size, cluster_size=_CLUSTER_SIZE).close()
            detail.append(f"{format_size(size)}, clusters of {format_size(_CLUSTER_SIZE)}")

    def _import(self, image: Path, source: Path) -> int:
        with (
            self._step("import it into a thin blob") as detail,
            Blobstore.open(image) as store,
            open_to_read(str(source)) as file,
        ):
            length = size_of(file)
            blob = store.create_blob(length, thin=True, xattrs={"name": b"imported"})
            fill_new(blob, file, length, path=str(source), advance=lambda _count: None)
            detail.append(f"blob {blob.id:#x}, {blob.info.allocated_clusters} clusters")
            return blob.id

    def _write_and_kill(self, image: Path, source: Path) -> Promise:
        length = source.stat().st_size
        parts = ceil_div(length, _FLUSH_COUNT_MIN)
        flush_every = max(1, min(_FLUSH_EVERY_MAX, ceil_div(parts, 4 * KIB) * 4 * KIB))
        with self._step("import it again in a second process, and kill that") as detail:
            promise = write_and_kill(image, source, flush_every=flush_every)
            detail.append(
                f"SIGKILL after {format_size(promise.length)} of {format_size(length)} acknowledged"
            )
        return promise

    def _recover(self, image: Path) -> None:
        with self._step("recover, and unload clean") as detail, Blobstore.open(image) as store:
            if store.info.clean:
                self.problems.append("store: clean after the kill, expected a dirty one")
            detail.append(f"{store.info.blob_count} blobs")

    def _verify(self, image: Path, source: Path, first: int, promise: Promise) -> None:
        with (
            self._step("verify every acknowledged byte") as detail,
            Blobstore.open(image, read_only=True) as store,
        ):
            with store.open_blob(first) as blob:
                problems = whole_problems(blob, source)
            with store.open_blob(promise.blob_id) as blob:
                problems += promise_problems(blob, source, promised=promise.length)
            self._look_at(store)
            detail.append(f"{len(problems)} differences")
        self.problems += problems

    def _look_at(self, store: Blobstore) -> None:
        """Keep what the store is at the end."""
        self.store = store.info
        self.blobs = [found for found in store.list_blobs() if found.error is None]
        if not self.store.clean:
            self.problems.append("store: dirty after it was unloaded")
