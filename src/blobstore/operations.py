"""Operations: all that the core can ask of the world outside.

The core is written as coroutines that await operations. An operation is plain data: it says
what is wanted, not how. A driver steps a coroutine, executes what the coroutine yields in
its own way, and sends the result back. The core therefore never performs I/O, knows no
threads and no clock, and a test can answer every operation as it likes.

`Batch` allows any order among its parts; consecutive awaits happen in order;
only `Flush` makes anything durable.
"""

from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Buffer: TypeAlias = bytes | bytearray | memoryview


class ExternalSource(Protocol):
    """What an external snapshot's id stands for: something of a fixed size to read.

    The core knows its measures only. How it is read, the driver knows.
    """

    @property
    def size_bytes(self) -> int:
        """How much there is to read; beyond it are zeroes."""

    @property
    def block_size(self) -> int:
        """The unit in bytes that it is read in."""


class ExternalTarget(Protocol):
    """Another device that a blob is copied to. How it is written, the driver knows."""

    @property
    def size_bytes(self) -> int:
        """How much room there is."""

    @property
    def block_size(self) -> int:
        """The unit in bytes that it is written in."""


class Operation(Generic[T]):
    """One request to the driver; awaiting it gives the result."""

    __slots__ = ()

    def __await__(self) -> Generator["Operation[Any]", Any, T]:
        result: T = yield self
        return result


Core: TypeAlias = Coroutine[Operation[Any], Any, T]
"""What an `async def` of the core returns, as a driver sees it."""


class Read(Operation[bytes]):
    """Read `length` bytes at `offset`."""

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length


class ReadInto(Operation[None]):
    """Read at `offset` into the buffers, one after the other."""

    __slots__ = ("buffers", "offset")

    def __init__(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.offset = offset
        self.buffers = buffers


class ReadExternal(Operation[None]):
    """Read at `offset` of an external source into a buffer."""

    __slots__ = ("buffer", "offset", "source")

    def __init__(self, source: ExternalSource, offset: int, buffer: memoryview) -> None:
        self.source = source
        self.offset = offset
        self.buffer = buffer


class WriteExternal(Operation[None]):
    """Write to another device than the store's, when something is copied out."""

    __slots__ = ("data", "offset", "target")

    def __init__(self, target: ExternalTarget, offset: int, data: Buffer) -> None:
        self.target = target
        self.offset = offset
        self.data = data


class FlushExternal(Operation[None]):
    """Make durable what was written to another device than the store's."""

    __slots__ = ("target",)

    def __init__(self, target: ExternalTarget) -> None:
        self.target = target


class Write(Operation[None]):
    """Write the buffers, one after the other, at `offset`."""

    __slots__ = ("buffers", "offset")

    def __init__(self, offset: int, *buffers: Buffer) -> None:
        self.offset = offset
        self.buffers = buffers


class WriteZeroes(Operation[None]):
    """Make `length` bytes at `offset` read as zeroes."""

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length


class Allocate(Operation[None]):
    """Give `length` bytes at `offset` space on the host; what they hold stays as it is."""

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length


class NextData(Operation[int]):
    """Find the first byte from `offset` on that may be other than zero; `end` if none is before."""

    __slots__ = ("end", "offset")

    def __init__(self, offset: int, end: int) -> None:
        self.offset = offset
        self.end = end


class Unmap(Operation[None]):
    """Tell the device that `length` bytes at `offset` are not needed any more."""

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length


class Copy(Operation[None]):
    """Make `length` bytes at `target` hold what those at `source` hold; they do not overlap."""

    __slots__ = ("length", "source", "target")

    def __init__(self, source: int, target: int, length: int) -> None:
        self.source = source
        self.target = target
        self.length = length


class Flush(Operation[None]):
    """Make everything that was completed before durable."""

    __slots__ = ()


class Batch(Operation[None]):
    """Perform all parts, in any order; the first failure is raised after all have been tried."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Operation[Any]]) -> None:
        self.parts = parts


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


class Checkpoint(Operation[None]):
    """The caller may stop here: what was done so far is consistent, in memory and on the device.

    A driver whose caller wants to stop throws `Interrupted`; otherwise nothing happens.
    """

    __slots__ = ()


class Interrupted(BaseException):
    """The caller stops. Thrown at a `Checkpoint` only, so it harms nothing that it passes.

    `reason` is what the driver raises for it in the end.
    """

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


class GracePeriod(Operation[None]):
    """Wait until `is_over` is true; threads on the fast path make it so, without telling anyone.

    A driver looks again from time to time (`blobstore.epochs`).
    """

    __slots__ = ("is_over",)

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.is_over = is_over
