"""Operations: all that the core can ask of the world outside.

The core is written as coroutines that await operations. A driver steps such a
coroutine, performs what it yields on a medium, and sends the result back. The
core therefore never performs I/O, knows no threads and no clock, and a test
can answer every operation as it likes.

`Batch` allows any order among its parts; consecutive awaits happen in order;
only `Flush` makes anything durable.
"""

from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from blobstore.errors import BlobstoreError

T = TypeVar("T")

Buffer: TypeAlias = bytes | bytearray | memoryview

_COPIED_AT_ONCE: Final = 1 << 20


class Medium(Protocol):
    """What operations run on; the devices implement it.

    Offsets and lengths are bytes. Every method raises `DeviceError` when the
    device fails, and returns only when all of the request is done.
    """

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers one after the other."""

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other."""

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range read as zeroes."""

    def unmap(self, offset: int, length: int) -> None:
        """Give the range back; what it reads as afterwards depends on the device."""

    def flush(self) -> None:
        """Make every completed write durable."""


@runtime_checkable
class CopyingMedium(Protocol):
    """A medium that can copy by itself."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the range at `target` hold what the one at `source` holds."""


class ExternalSource(Protocol):
    """What an external snapshot's id stands for: something to read, of a fixed size in bytes.

    Beyond its end there are zeroes. `block_size` is the unit that it is read in.
    """

    @property
    def size_bytes(self) -> int:
        """How much there is to read."""

    @property
    def block_size(self) -> int:
        """The source's block."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers one after the other."""


class Operation(Generic[T]):
    """One request to the driver; awaiting it gives the result."""

    __slots__ = ()

    def __await__(self) -> Generator["Operation[Any]", Any, T]:
        result: T = yield self
        return result

    def perform(self, medium: Medium) -> T:
        """Do it now, on the calling thread."""
        raise TypeError(f"{type(self).__name__} is not performed on a medium")


Core: TypeAlias = Coroutine[Operation[Any], Any, T]
"""What an `async def` of the core returns, as a driver sees it."""


class Read(Operation[bytes]):
    """Read `length` bytes at `offset`."""

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length

    def perform(self, medium: Medium) -> bytes:
        return medium.read(self.offset, self.length)


class ReadInto(Operation[None]):
    """Read at `offset` into the buffers, one after the other."""

    __slots__ = ("buffers", "offset")

    def __init__(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.offset = offset
        self.buffers = buffers

    def perform(self, medium: Medium) -> None:
        medium.read_into(self.offset, self.buffers)


class ReadExternal(Operation[None]):
    """Read at `offset` of an external source into a buffer."""

    __slots__ = ("buffer", "offset", "source")

    def __init__(self, source: ExternalSource, offset: int, buffer: memoryview) -> None:
        self.source = source
        self.offset = offset
        self.buffer = buffer

    def perform(self, medium: Medium) -> None:
        self.source.read_into(self.offset, [self.buffer])


class WriteExternal(Operation[None]):
    """Write to another device than the store's, when something is copied out."""

    __slots__ = ("data", "offset", "target")

    def __init__(self, target: Medium, offset: int, data: Buffer) -> None:
        self.target = target
        self.offset = offset
        self.data = data

    def perform(self, medium: Medium) -> None:
        self.target.write(self.offset, [self.data])


class FlushExternal(Operation[None]):
    """Make durable what was written to another device than the store's."""

    __slots__ = ("target",)

    def __init__(self, target: Medium) -> None:
        self.target = target

    def perform(self, medium: Medium) -> None:
        self.target.flush()


class Write(Operation[None]):
    """Write the buffers, one after the other, at `offset`."""

    __slots__ = ("buffers", "offset")

    def __init__(self, offset: int, *buffers: Buffer) -> None:
        self.offset = offset
        self.buffers = buffers

    def perform(self, medium: Medium) -> None:
        medium.write(self.offset, self.buffers)


class WriteZeroes(Operation[None]):
    """Make `length` bytes at `offset` read as zeroes."""

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length

    def perform(self, medium: Medium) -> None:
        medium.write_zeroes(self.offset, self.length)


class Unmap(Operation[None]):
    """Tell the device that `length` bytes at `offset` are not needed any more."""

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length

    def perform(self, medium: Medium) -> None:
        medium.unmap(self.offset, self.length)


class Copy(Operation[None]):
    """Make `length` bytes at `target` hold what those at `source` hold; they do not overlap."""

    __slots__ = ("length", "source", "target")

    def __init__(self, source: int, target: int, length: int) -> None:
        self.source = source
        self.target = target
        self.length = length

    def perform(self, medium: Medium) -> None:
        if isinstance(medium, CopyingMedium):
            medium.copy(self.source, self.target, self.length)
            return
        for at in range(0, self.length, _COPIED_AT_ONCE):
            step = min(_COPIED_AT_ONCE, self.length - at)
            medium.write(self.target + at, [medium.read(self.source + at, step)])


class Flush(Operation[None]):
    """Make everything that was completed before durable."""

    __slots__ = ()

    def perform(self, medium: Medium) -> None:
        medium.flush()


class Batch(Operation[None]):
    """Perform all parts, in any order; the first failure is raised after all have been tried."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Operation[Any]]) -> None:
        self.parts = parts

    def perform(self, medium: Medium) -> None:
        failure: BlobstoreError | None = None
        for part in self.parts:
            try:
                part.perform(medium)
            except BlobstoreError as error:
                failure = failure or error
        if failure is not None:
            raise failure


class Wakeup:
    """Something to wait for, made by the core and fired by the core.

    A driver that parks a task installs `notify`; it is called at most once,
    from the step that fires.
    """

    __slots__ = ("fired", "notify")

    def __init__(self) -> None:
        self.fired = False
        self.notify: Callable[[], None] | None = None

    def fire(self) -> None:
        """Let the parked task go on."""
        self.fired = True
        if self.notify is not None:
            notify, self.notify = self.notify, None
            notify()


class Park(Operation[None]):
    """Let others run until the wakeup has fired."""

    __slots__ = ("wakeup",)

    def __init__(self, wakeup: Wakeup) -> None:
        self.wakeup = wakeup


class Quiesce(Operation[None]):
    """Wait until `is_quiet` is true; something outside the core makes it so.

    Used for the marks of the fast lane, which clears them without telling
    anybody. A driver looks again from time to time.
    """

    __slots__ = ("is_quiet",)

    def __init__(self, is_quiet: Callable[[], bool]) -> None:
        self.is_quiet = is_quiet
