"""A blob as a file object: what `Blob.open` returns.

A blob behaves here as a block device does: its size is fixed, a write stops at
its end, and only `truncate` changes it. Bytes go to the blob at once, or when
the buffer in front of it is flushed; the blob's own `flush` makes them durable.
"""

import errno
import io
import operator
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from blobstore.api.arguments import integer_of
from blobstore.errors import BlobstoreError, ClosedError, InvalidArgumentError, NoSpaceError
from blobstore.operations import Buffer
from blobstore.units import BlobId

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

ReadMode: TypeAlias = Literal["rb"]
UpdateMode: TypeAlias = Literal["r+b", "rb+"]

_BUFFER_SIZE: Final = 64 * 1024
_CHOOSE: Final = -1
_UNBUFFERED: Final = 0


class OpenBlob(Protocol):
    """What a file object needs of its blob."""

    @property
    def id(self) -> BlobId:
        """For messages."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    @property
    def closed(self) -> bool:
        """Whether the blob was closed."""

    def read(self, length: int, offset: int = 0) -> bytes:
        """Return `length` bytes at `offset`."""

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fill a buffer from `offset`."""

    def write(self, data: Buffer, offset: int = 0) -> int:
        """Write `data` at `offset`."""

    def resize(self, size: int | str) -> None:
        """Give the blob `size` bytes."""

    def next_data(self, offset: int) -> int | None:
        """Return where data begins."""

    def next_hole(self, offset: int) -> int:
        """Return where a hole begins."""


Clear: TypeAlias = Callable[[int, int], None]
"""(offset, length): make a range of the blob read as zeroes, keeping its holes."""


Named: TypeAlias = Callable[[BlobstoreError], BlobstoreError]
"""Names the store and the blob in an error, and returns the error."""


class BlobFile(io.RawIOBase):
    """The unbuffered file object of an open blob; `Blob.open` makes it.

    It has a position of its own and nothing else: any number of them may be
    open on one blob, each for one thread. What the blob refuses is a
    `BlobstoreError`; once the blob is closed, that is `ClosedError`.
    """

    def __init__(self, blob: OpenBlob, clear: Clear, named: Named, *, writable: bool) -> None:
        super().__init__()
        self._blob = blob
        self._clear = clear
        self._named = named
        self._is_writable = writable
        self._position = 0

    # What it is

    @property
    def mode(self) -> str:
        """How it was opened: ``rb``, or ``rb+`` as files spell it."""
        return "rb+" if self._is_writable else "rb"

    def readable(self) -> bool:
        self._check_open()
        return True

    def writable(self) -> bool:
        self._check_open()
        return self._is_writable

    def seekable(self) -> bool:
        self._check_open()
        return True

    # Data

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer, or as much of it as the blob has; return how many bytes, 0 at the end.

        Raises:
            DeviceError: The device failed.
        """
        rest = self._rest()
        view = memoryview(buffer)
        if view.nbytes > rest:
            view = view.cast("B")[:rest]
        if view.nbytes:
            self._blob.read_into(view, self._position)
        self._position += view.nbytes
        return view.nbytes

    def read(self, size: int | None = -1, /) -> bytes:
        """Return `size` bytes, or as many as the blob has; all with None or a negative size.

        Raises:
            DeviceError: The device failed.
        """
        rest = self._rest()
        length = rest if size is None or size < 0 else min(size, rest)
        data = self._blob.read(length, self._position) if length else b""
        self._position += length
        return data

    def readall(self) -> bytes:
        return self.read()

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write data, or as much of it as the blob has room for; return the number of bytes.

        Durability: with the blob's next `flush`.

        Raises:
            NoSpaceError: The position is at the blob's end or beyond, or no cluster is
                left for an unallocated part; nothing changed.
            ReadOnlyError: The blob or the store is read-only.
            DeviceError: The device failed; the range holds anything.
            io.UnsupportedOperation: The file object is for reading.
        """
        self._check_writable()
        rest = self._rest()
        view = memoryview(data)
        if view.nbytes and not rest:
            error = NoSpaceError(f"write at {self._position}: its end is {self._size()}")
            raise self._named(error)
        if view.nbytes > rest:
            view = view.cast("B")[:rest]
        if view.nbytes:
            self._blob.write(view, self._position)
        self._position += view.nbytes
        return view.nbytes

    # The position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position, also beyond the end, and return it.

        With `os.SEEK_DATA` and `os.SEEK_HOLE` it goes to the next byte from `offset` on
        that lies in a cluster of the blob's or of a parent's, or in none; the end counts
        as a hole. Holes read as zeroes.

        Raises:
            InvalidArgumentError: The position would be negative, or `whence` is unknown.
            OSError: ENXIO: `offset` is not in the blob, or no data follow.
        """
        self._check_open()
        self._position = self._resolve(operator.index(offset), whence)
        return self._position

    def _resolve(self, offset: int, whence: int) -> int:
        if whence == os.SEEK_DATA or whence == os.SEEK_HOLE:
            return self._next(offset, data=whence == os.SEEK_DATA)
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self._size()
        elif whence != os.SEEK_SET:
            raise self._named(InvalidArgumentError(f"whence {whence}: unknown"))
        if offset < 0:
            raise self._named(InvalidArgumentError(f"position {offset}: negative"))
        return offset

    def _next(self, offset: int, *, data: bool) -> int:
        size = self._size()
        found = None
        if 0 <= offset < size:
            found = self._blob.next_data(offset) if data else self._blob.next_hole(offset)
        if found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return found

    # The size

    def truncate(self, size: int | None = None, /) -> int:
        """Give the blob `size` bytes, rounded up to whole clusters; return its new size.

        None stands for the position, which stays. What is cut off is gone: what
        remains of it in the last cluster reads as zeroes.

        Durability: with the blob's next `flush`.

        Raises:
            NoSpaceError: Not enough clusters or metadata pages; nothing changed.
            ReadOnlyError: The blob or the store is read-only.
            io.UnsupportedOperation: The file object is for reading.
        """
        self._check_writable()
        wanted = self._position if size is None else operator.index(size)
        before = self._size()
        self._blob.resize(wanted)
        end = min(before, self._blob.size)
        if wanted < end:
            self._clear(wanted, end - wanted)
        return self._blob.size

    # What everything asks first

    def _rest(self) -> int:
        """Return how many bytes lie between the position and the end."""
        self._check_open()
        return max(0, self._size() - self._position)

    def _size(self) -> int:
        if self._blob.closed:
            raise self._named(ClosedError("closed"))
        return self._blob.size

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _check_writable(self) -> None:
        self._check_open()
        if not self._is_writable:
            raise io.UnsupportedOperation("not open for writing")

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.mode} at {self._position}"
        return f"<BlobFile {self._blob.id:#x} {state}>"


FileObject: TypeAlias = BlobFile | io.BufferedReader | io.BufferedRandom


def open_file(blob: OpenBlob, clear: Clear, named: Named, mode: str, buffering: int) -> FileObject:
    """Open a file object as `Blob.open` says.

    Raises:
        InvalidArgumentError: Not such a mode or buffer.
        ReadOnlyError: The blob or the store cannot be written to.
    """
    if mode not in ("rb", "r+b", "rb+"):
        raise InvalidArgumentError(
            f"mode: expected 'rb' or 'r+b', got {mode!r}; text is io.TextIOWrapper's, "
            "and a blob does not grow by writing"
        )
    if integer_of(buffering, "buffering") < _CHOOSE:
        raise InvalidArgumentError(
            f"buffering: expected a number of bytes, 0 or -1, got {buffering}"
        )
    writable = mode != "rb"
    if writable:
        blob.write(b"")  # changes nothing, and is refused where any write is
    raw = BlobFile(blob, clear, named, writable=writable)
    if buffering == _UNBUFFERED:
        return raw
    size = _BUFFER_SIZE if buffering == _CHOOSE else buffering
    return io.BufferedRandom(raw, size) if writable else io.BufferedReader(raw, size)
