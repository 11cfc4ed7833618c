"""What somebody sees who opens a damaged image and reads all of it, and how long they may wait.

Whatever is wrong with an image, there are two ways to end: an answer, or a
`BlobstoreError`. Everything else is a failure of this package.
"""

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.errors import BlobstoreError
from blobstore.units import BlobId

LONGEST_S: Final = 2.0
"""The processor time that any image may take; what is waited for without it may take longer."""

_LONGEST_WAIT_S: Final = 100.0
_NEXT_MOMENT_S: Final = 0.001
_READ_WHOLE: Final = 1 << 19
_MOST_READ: Final = 1 << 20
_MOST_PARTS: Final = 4096


class HangError(BaseException):
    """It took too long; no `Exception`, so that nothing on the way takes it for one."""


@contextmanager
def time_limit(seconds: float = LONGEST_S) -> Iterator[None]:
    """Raise `HangError` in the main thread where it takes more processor time, or never ends."""

    def give_up(_signal: int, _frame: object) -> None:
        raise HangError(f"more than {seconds} s")

    kept = [(n, signal.signal(n, give_up)) for n in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    began = time.monotonic()
    others_s, _interval = signal.setitimer(signal.ITIMER_REAL, max(_LONGEST_WAIT_S, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in kept:
            signal.signal(number, handler)
        if others_s:  # a limit outside of this one, such as that of the whole test, goes on
            left_s = others_s - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left_s, _NEXT_MOMENT_S))


@dataclass(frozen=True, slots=True)
class SeenBlob:
    """A blob's size, attributes, and its parts: (offset, length, digest of what it holds).

    Of a hole only the first cluster is read.
    """

    size: int
    xattrs: tuple[tuple[str, bytes], ...]
    parts: tuple[tuple[int, int, bytes], ...]


@dataclass(slots=True)
class Seen:
    """All blobs that a store lists, or why they, or the store, cannot be opened."""

    refusal: str | None = None
    blobs: dict[int, SeenBlob] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def silent_differences(self, right: "Seen") -> list[int]:
        """Return the blobs that are not as they should be, though nothing was said of them."""
        if self.refusal is not None:
            return []
        ids = {*self.blobs, *right.blobs} - {*self.errors}
        return sorted(i for i in ids if self.blobs.get(i) != right.blobs.get(i))


def observe(store: Blobstore, ids: Iterable[BlobId] | None = None) -> Seen:
    """List the store and read every blob that opens, or just these; the store is left open."""
    seen = Seen()
    for blob_id in store.blob_ids() if ids is None else ids:
        try:
            with store.open_blob(blob_id) as blob:
                seen.blobs[blob_id] = _read_all(store, blob)
        except BlobstoreError as error:
            seen.errors[blob_id] = error.message
    return seen


def _read_all(store: Blobstore, blob: Blob) -> SeenBlob:
    """Read a small blob whole; of another what is there, a cluster of each hole, at most a MiB."""
    info = blob.info
    xattrs = tuple(info.xattrs.items())
    if info.size <= _READ_WHOLE:
        return SeenBlob(info.size, xattrs, ((0, info.size, _digest(blob, info.size)),))
    has_backing = info.parent is not None or info.external_snapshot is not None
    parts: list[tuple[int, int, bytes]] = []
    offset, left = 0, _MOST_READ
    for cluster, count in info.extents[:_MOST_PARTS]:
        length = count * store.cluster_size
        wanted = min(length if cluster or has_backing else store.cluster_size, left)
        parts.append((offset, length, _digest(blob, wanted, offset)))
        left -= wanted
        offset += length
    return SeenBlob(info.size, xattrs, tuple(parts))


def _digest(blob: Blob, length: int, offset: int = 0) -> bytes:
    return sha256(blob.read(length, offset)).digest()
