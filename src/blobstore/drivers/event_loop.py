"""The asyncio driver: steps coroutines of the core on an event loop.

A store belongs to one loop, and so to one thread: steps exclude each other without a lock, and
nothing of the store happens between two statements that do not await. Operations are started by
`blobstore.drivers.event_loop_io`. While one is in progress, the loop runs other tasks.

**Cancellation.** asyncio cancels a task by raising `CancelledError` where the task waits. In the
middle of a change it would be unknown what is on the device, and the memory of a request in
flight belongs to the kernel. So the driver takes note of the cancellation and goes on waiting.
The operation runs to its end, or stops at its next `Checkpoint`, as after Ctrl-C. Only then
`CancelledError` is raised in the caller. A result without a caller is released (`give_up`).

**Ctrl-C.** `asyncio.run` installs its own handler of SIGINT. The first Ctrl-C cancels the main
task, the second is raised at once, between any two bytecodes. A program that runs a loop without
`asyncio.run` has Python's handler, which does that with the first. So each step holds SIGINT back
(`blobstore.drivers.interrupts`), and `KeyboardInterrupt` ends the loop when the step has ended.
The operation goes on if the program runs the loop again.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from blobstore.device.base import Device
from blobstore.drivers import interrupts
from blobstore.drivers.completions import Completion
from blobstore.drivers.event_loop_io import EventLoopIO
from blobstore.errors import BlobstoreError
from blobstore.operations import (
    Batch,
    Checkpoint,
    Core,
    Interrupted,
    Operation,
    Park,
    ReadExternal,
)

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class AwaitedSource(Protocol):
    """An external source that is read by awaiting it."""

    async def read_awaited(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""


class Patience:
    """How one call waits: it takes note that it was cancelled, and goes on waiting."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled: asyncio.CancelledError | None = None

    async def wait(self, completion: Completion) -> Any:
        """Return the result of what is under way, or raise its failure."""
        try:
            return await completion
        except asyncio.CancelledError as error:
            self.cancelled = error
            return completion.outcome()


class EventLoopDriver:
    """Runs the core on one device, on the event loop that is running when this is made.

    The core does not know what its device is called: errors get its name here.
    """

    def __init__(self, device: Device, on_failure: Callable[[BaseException], None]) -> None:
        """Take over a device; `on_failure` poisons the store."""
        self.io = EventLoopIO(device)
        self.loop = self.io.loop
        self._name = device.name
        self._on_failure = on_failure

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the core in one step."""
        self.check_loop()
        try:
            return function(*args, **kwargs)
        except BlobstoreError as error:
            error.at(store=self._name)
            raise

    def check_loop(self) -> None:
        """Refuse another event loop than the store's.

        Raises:
            RuntimeError: It is another one, or none is running.
        """
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError(f"{self._name}: the store belongs to another event loop")

    async def run(self, core: Core[T], give_up: Callable[[T], Core[None]] | None = None) -> T:
        """Run to the end, and return or raise what it returns or raises.

        When the caller was cancelled meanwhile, the result goes to `give_up`, such as a blob
        that is to be closed again. An exception that is no failure of an operation
        (MemoryError, a second Ctrl-C) is raised inside the coroutine as well, so that it can
        clean up. When one escapes, it is unknown how far the core came: the store is poisoned.

        Raises:
            asyncio.CancelledError: The caller was cancelled. The operation has ended, or has
                stopped at a checkpoint.
        """
        try:
            self.check_loop()
        except RuntimeError:
            core.close()
            raise
        patience = Patience()
        try:
            result = await self._run_to_end(core, patience)
            if patience.cancelled is not None and give_up is not None:
                await self._run_to_end(give_up(result), patience)
        except Interrupted as stop:
            raise stop.reason from None
        except BlobstoreError as error:
            if patience.cancelled is not None:
                raise patience.cancelled from error
            raise
        if patience.cancelled is not None:
            raise patience.cancelled
        return result

    async def _run_to_end(self, core: Core[T], patience: Patience) -> T:
        value: object = None
        failure: BaseException | None = None
        try:
            while True:
                operation = self._step(core, value, failure)
                value = failure = None
                try:
                    value = await self._perform(operation, patience)
                except GeneratorExit:
                    raise  # the loop was closed: nothing can be waited for any more
                except BaseException as error:
                    failure = error
        except StopIteration as stop:
            result: T = stop.value
            return result
        except Interrupted:
            raise
        except BaseException as error:
            self._clean_up(core, error)
            raise

    def _step(
        self, core: Core[Any], value: object, failure: BaseException | None
    ) -> Operation[Any]:
        is_held = interrupts.hold()
        try:
            return core.send(value) if failure is None else core.throw(failure)
        finally:
            if is_held:
                self._release()

    def _release(self) -> None:
        try:
            interrupts.release()
        except KeyboardInterrupt as error:
            self.loop.call_soon(_raise, error)

    def _clean_up(self, core: Core[Any], error: BaseException) -> None:
        core.close()
        if isinstance(error, BlobstoreError):
            error.at(store=self._name)
        else:
            self._on_failure(error)

    async def _perform(self, operation: Operation[Any], patience: Patience) -> object:
        if isinstance(operation, Park):
            return await patience.wait(self._parked(operation))
        if isinstance(operation, Checkpoint):
            if patience.cancelled is not None:
                raise Interrupted(patience.cancelled)
            return None
        if isinstance(operation, Batch):
            await self._perform_all(operation, patience)
            return None
        if _is_awaited(operation):
            await _read_awaited(operation, patience)
            return None
        return await patience.wait(self.io.start(operation))

    async def _perform_all(self, batch: Batch, patience: Patience) -> None:
        """Perform all parts at once; raise the first failure after all have ended."""
        parts = [(part, None if _is_awaited(part) else self.io.start(part)) for part in batch.parts]
        failure: BlobstoreError | None = None
        for part, completion in parts:
            try:
                if completion is None:
                    await _read_awaited(part, patience)
                else:
                    await patience.wait(completion)
            except BlobstoreError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _parked(self, operation: Park) -> Completion:
        completion = Completion()

        def finish_soon() -> None:  # a task fires the wakeup: it cannot run another one inside
            self.loop.call_soon(completion.finish)

        if operation.wakeup.fired:
            completion.finish()
        else:
            operation.wakeup.notify = finish_soon
        return completion

    def close(self) -> None:
        """Close what performs operations; nothing may be in progress."""
        self.io.close()


def _is_awaited(operation: Operation[Any]) -> bool:
    """Tell whether an external snapshot is read that is a blob of another store on the loop."""
    return isinstance(operation, ReadExternal) and isinstance(operation.source, AwaitedSource)


async def _read_awaited(operation: Operation[Any], patience: Patience) -> None:
    """Read it; a read that was cancelled may have stopped in the middle, and begins again."""
    if not isinstance(operation, ReadExternal) or not isinstance(operation.source, AwaitedSource):
        raise TypeError(f"{type(operation).__name__} is not awaited")
    while True:
        try:
            await operation.source.read_awaited(operation.offset, operation.buffer)
            return
        except asyncio.CancelledError as error:
            patience.cancelled = error


def _raise(error: BaseException) -> None:
    raise error
