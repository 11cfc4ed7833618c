"""The process in which `tests.proof.interrupts` presses Ctrl-C: random calls, judged afterwards.

A round opens the store, says so on standard output, and makes calls until `KeyboardInterrupt`.
What was acknowledged by then must be there when the store is opened again. The call that was
interrupted may have happened or not; of a range of bytes each cluster may be old or new.
"""

import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from blobstore import Blob, BlobInfo, Blobstore, BlobstoreError, MemoryDevice, check
from blobstore.blob import read as blob_read
from blobstore.blob import write as blob_write
from blobstore.drivers import interrupts
from blobstore.metadata import space
from blobstore.metadata.store_state import StoreState
from blobstore.store import inflate
from blobstore.testing.internals import core_of

CLUSTER: Final = 16 * 1024
CLUSTERS_MAX: Final = 24
BLOBS_MAX: Final = 8
READY: Final = "ready"
UNPROTECTED: Final = "unprotected"

_PART: Final = 2 * CLUSTER
_NEW: Final = -1
"""Stands for the id of a blob that is being made."""
_LONG_OPERATIONS: Final = (
    (blob_read, "AT_ONCE"),
    (blob_write, "AT_ONCE"),
    (blob_write, "_ZEROED_AT_ONCE"),
    (space, "_CLEARED_BYTES"),
    (inflate, "_AT_ONCE_BYTES"),
)


@dataclass(slots=True)
class Model:
    """A blob as it must be read: its clusters and its attributes."""

    clusters: list[bytes] = field(default_factory=list)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def __copy__(self) -> "Model":
        return Model(list(self.clusters), dict(self.xattrs))


Models: TypeAlias = dict[int, Model]
Call: TypeAlias = Callable[[], Any]
"""It may return the blob that it made."""
Change: TypeAlias = Callable[[Models], None]


class Worker:
    """One store, the calls that are made on it, and what it must hold."""

    def __init__(self, path: str, rng: random.Random) -> None:
        self.path = path
        self.rng = rng
        self.models: Models = {}
        self.attempted: Models = {}
        self.blobs: dict[int, Blob] = {}
        self.name = ""
        self.counts: dict[str, int] = {}

    def round(self) -> str:
        """Call until Ctrl-C, and judge; return the call that was interrupted."""
        self.attempted, self.name = self.models, "open"
        core: StoreState | None = None
        with suppress(KeyboardInterrupt), Blobstore.open(self.path) as store:
            core = core_of(store)
            self.blobs = {blob_id: store.open_blob(blob_id) for blob_id in self.models}
            print(READY, flush=True)
            favourite = self.rng.choice(CALLS)
            while True:
                self.step(store, favourite if self.rng.random() < 0.7 else None)
        assert core is None or core.poison is None, f"{self.name}: poisoned by {core.poison!r}"
        self.judge()
        return self.name

    def step(self, store: Blobstore, favourite: "Maker | None") -> None:
        """Make one call; what it promises holds when it returns."""
        maker = favourite or self.rng.choice(CALLS)
        made = maker(self, store)
        if made is None:
            return
        call, change = made
        after = {blob_id: copy(model) for blob_id, model in self.models.items()}
        change(after)
        self.name, self.attempted = maker.__name__, after
        try:
            result = call()
        except BlobstoreError:
            self.attempted = self.models  # no space, or in use: nothing changed
            return
        if isinstance(result, Blob):
            self.blobs[result.id] = result
            after[result.id] = after.pop(_NEW)
        self.models = self.attempted = after
        self.counts[self.name] = self.counts.get(self.name, 0) + 1

    def judge(self) -> None:
        """Compare what is in the store with what was acknowledged, and go on from what is there."""
        report = check(self.path)
        assert report.clean, f"{self.name}: {report.findings}"
        assert report.unloaded, f"{self.name}: not unloaded"
        before, after = self.models, self.attempted
        found = self.found()
        lost = before.keys() & after.keys() - found.keys()
        assert not lost, f"{self.name}: blobs {lost} are lost"
        extra = found.keys() - before.keys() - after.keys()
        assert len(extra) <= (_NEW in after), f"{self.name}: blobs {extra} came from nowhere"
        for blob_id, there in found.items():
            old, new = before.get(blob_id), after.get(blob_id, after.get(_NEW))
            self.judge_blob(there, [one for one in (old, new) if one is not None])
        self.models = found

    def found(self) -> Models:
        models: Models = {}
        with Blobstore.open(self.path, read_only=True) as store:
            assert not core_of(store).was_recovered, f"{self.name}: not unloaded"
            for blob_id in store.blob_ids():
                with store.open_blob(blob_id) as blob:
                    models[blob_id] = model_of(blob)
        return models

    def judge_blob(self, found: Model, allowed: list[Model]) -> None:
        assert found.xattrs in [one.xattrs for one in allowed], f"{self.name}: attributes"
        assert len(found.clusters) in [len(one.clusters) for one in allowed], f"{self.name}: size"
        for index, cluster in enumerate(found.clusters):
            there = [one.clusters[index] for one in allowed if index < len(one.clusters)]
            assert cluster in there, f"{self.name}: cluster {index} is neither old nor new"

    # What calls are made of

    def blob(self, fits: Callable[[BlobInfo], bool]) -> Blob | None:
        """Return any blob that fits."""
        fitting = [blob for blob in self.blobs.values() if fits(blob.info)]
        return self.rng.choice(fitting) if fitting else None

    def range_in(self, blob: Blob) -> tuple[int, int]:
        """Return the first cluster and the number of some clusters of the blob."""
        count = len(self.models[blob.id].clusters)
        first = self.rng.randrange(count)
        return first, self.rng.randrange(1, count - first + 1)

    def bytes(self) -> bytes:
        """Return a cluster that no other call writes."""
        return self.rng.randbytes(8) * (CLUSTER // 8)


Made: TypeAlias = "tuple[Call, Change] | None"
Maker: TypeAlias = Callable[[Worker, Blobstore], Made]


def model_of(blob: Blob) -> Model:
    content = blob.read(blob.size) if blob.size else b""
    return Model(
        [content[at : at + CLUSTER] for at in range(0, len(content), CLUSTER)],
        dict(blob.info.xattrs),
    )


def nothing(_models: Models) -> None:
    """The call changes nothing that is read."""


def _is_writable(info: BlobInfo) -> bool:
    return not info.read_only and info.size > 0


def _is_independent(info: BlobInfo) -> bool:
    return _is_writable(info) and info.parent is None


def write(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(_is_writable)
    if blob is None:
        return None
    first, count = worker.range_in(blob)
    clusters = [worker.bytes() for _ in range(count)]

    def change(models: Models) -> None:
        models[blob.id].clusters[first : first + count] = clusters

    return lambda: blob.write(b"".join(clusters), first * CLUSTER), change


def write_zeroes(worker: Worker, _store: Blobstore) -> Made:
    return _zero(worker, _is_writable, Blob.write_zeroes)


def unmap(worker: Worker, _store: Blobstore) -> Made:
    return _zero(worker, _is_independent, Blob.unmap)


def _zero(
    worker: Worker, fits: Callable[[BlobInfo], bool], call: Callable[[Blob, int, int], None]
) -> Made:
    blob = worker.blob(fits)
    if blob is None:
        return None
    first, count = worker.range_in(blob)

    def change(models: Models) -> None:
        models[blob.id].clusters[first : first + count] = [bytes(CLUSTER)] * count

    return lambda: call(blob, first * CLUSTER, count * CLUSTER), change


def read(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(lambda info: info.size > 0)
    return None if blob is None else (lambda: blob.read(blob.size), nothing)


def flush(worker: Worker, store: Blobstore) -> Made:
    blob = worker.blob(lambda _info: True)
    return (store.flush if blob is None else blob.flush), nothing


def flush_store(_worker: Worker, store: Blobstore) -> Made:
    return store.flush, nothing


def resize(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(_is_independent)
    if blob is None:
        return None
    count = worker.rng.randrange(1, CLUSTERS_MAX + 1)

    def change(models: Models) -> None:
        clusters = models[blob.id].clusters
        clusters[count:] = [bytes(CLUSTER)] * (count - len(clusters))

    return lambda: blob.resize(count * CLUSTER), change


def set_xattr(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(_is_writable)
    if blob is None:
        return None
    name, value = worker.rng.choice("abc"), worker.rng.randbytes(20)

    def change(models: Models) -> None:
        models[blob.id].xattrs[name] = value

    return lambda: blob.set_xattr(name, value), change


def remove_xattr(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(lambda info: _is_writable(info) and bool(info.xattrs))
    if blob is None:
        return None
    name = next(iter(blob.xattrs))

    def change(models: Models) -> None:
        del models[blob.id].xattrs[name]

    return lambda: blob.remove_xattr(name), change


def create_blob(worker: Worker, store: Blobstore) -> Made:
    if len(worker.blobs) >= BLOBS_MAX:
        return None
    rng = worker.rng
    count, thin, table = rng.randrange(1, CLUSTERS_MAX), rng.random() < 0.6, rng.random() < 0.6

    def change(models: Models) -> None:
        models[_NEW] = Model([bytes(CLUSTER)] * count, {"a": b"new"})

    def call() -> Blob:
        return store.create_blob(
            count * CLUSTER, thin=thin, extent_table=table, xattrs={"a": b"new"}
        )

    return call, change


def delete_blob(worker: Worker, store: Blobstore) -> Made:
    blob = worker.blob(lambda info: len(info.clones) <= 1)
    if blob is None or len(worker.blobs) < 2:
        return None
    blob.close()
    del worker.blobs[blob.id]

    def change(models: Models) -> None:
        del models[blob.id]

    def call() -> None:
        try:
            store.delete_blob(blob.id)
        except BlobstoreError:
            worker.blobs[blob.id] = store.open_blob(blob.id)
            raise

    return call, change


def snapshot(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(_is_writable)
    if blob is None or len(worker.blobs) >= BLOBS_MAX:
        return None

    def change(models: Models) -> None:
        models[_NEW] = Model(list(models[blob.id].clusters), {"b": b"snapshot"})

    return lambda: blob.snapshot(xattrs={"b": b"snapshot"}), change


def clone(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(lambda info: info.read_only)
    if blob is None or len(worker.blobs) >= BLOBS_MAX:
        return None

    def change(models: Models) -> None:
        models[_NEW] = Model(list(models[blob.id].clusters), {"c": b"clone"})

    return lambda: blob.clone(xattrs={"c": b"clone"}), change


def set_parent(worker: Worker, store: Blobstore) -> Made:
    """Move a new and empty blob below a snapshot."""
    parent = worker.blob(lambda info: info.read_only)
    if parent is None:
        return None
    size = parent.size
    blob = worker.blob(lambda info: info.thin and info.size == size and not info.allocated_clusters)
    if blob is None or blob.info.parent is not None or blob.info.read_only:
        return None

    def change(models: Models) -> None:
        models[blob.id].clusters = list(models[parent.id].clusters)

    return lambda: blob.set_parent(parent.id), change


def rollback(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(lambda info: _is_writable(info) and info.parent is not None)
    if blob is None:
        return None
    parent = blob.info.parent
    assert parent is not None
    if parent not in worker.models:
        return None

    def change(models: Models) -> None:
        models[blob.id].clusters = list(models[parent].clusters)

    return lambda: blob.rollback(parent), change


def inflate_blob(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(_is_writable)
    return None if blob is None else (blob.inflate, nothing)


def decouple(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(lambda info: _is_writable(info) and info.parent is not None)
    return None if blob is None else (blob.decouple, nothing)


def shallow_copy(worker: Worker, _store: Blobstore) -> Made:
    blob = worker.blob(lambda info: info.read_only and info.size > 0)
    target = MemoryDevice(CLUSTERS_MAX * CLUSTER)
    return None if blob is None else (lambda: blob.shallow_copy(target), nothing)


def set_super_blob(worker: Worker, store: Blobstore) -> Made:
    blob = worker.blob(lambda _info: True)
    return None if blob is None else (lambda: store.set_super_blob(blob.id), nothing)


def set_type(worker: Worker, store: Blobstore) -> Made:
    bstype = worker.rng.choice([b"one", b"two"])
    return lambda: store.set_type(bstype), nothing


def list_blobs(_worker: Worker, store: Blobstore) -> Made:
    return lambda: list(store.list_blobs()), nothing


def close_and_open(worker: Worker, store: Blobstore) -> Made:
    blob = worker.blob(lambda _info: True)
    if blob is None:
        return None

    def call() -> None:
        blob.close()
        worker.blobs[blob.id] = store.open_blob(blob.id)

    return call, nothing


CALLS: Final[tuple[Maker, ...]] = (
    write,
    write_zeroes,
    unmap,
    read,
    flush,
    flush_store,
    resize,
    set_xattr,
    remove_xattr,
    create_blob,
    delete_blob,
    snapshot,
    clone,
    set_parent,
    rollback,
    inflate_blob,
    decouple,
    shallow_copy,
    set_super_blob,
    set_type,
    list_blobs,
    close_and_open,
)


def rounds(path: str, seed: int) -> Iterator[str]:
    """Yield the call that each round was interrupted in; a failed one raises AssertionError."""
    worker = Worker(path, random.Random(seed))
    while True:
        yield worker.round()


def main(path: str, seed: int, *, is_protected: bool) -> None:
    """Run rounds until this process is killed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not is_protected:
        interrupts.hold = bool
    for module, name in _LONG_OPERATIONS:
        setattr(module, name, _PART)
    Blobstore.create(path, size=16 << 20, cluster_size=CLUSTER, md_pages=256).close()
    for name in rounds(path, seed):
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), is_protected=sys.argv[3:] != [UNPROTECTED])
