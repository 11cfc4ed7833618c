"""The simplest driver: one coroutine of the core, on a medium that answers at once."""

from types import CoroutineType
from typing import Any, TypeVar

from blobstore.drivers.perform import perform
from blobstore.operations import Checkpoint, Core, Flush, GracePeriod, Interrupted, Park
from blobstore.testing.simulated_disk import SimulatedDisk

T = TypeVar("T")


class DeadlockError(Exception):
    """The only task there is waits for another one."""


def run_alone(core: Core[T], disk: SimulatedDisk) -> T:
    """Run the coroutine to its end; an operation's failure is raised inside it.

    Raises:
        DeadlockError: The coroutine waits for something that never happens.
    """
    value: object = None
    failure: BaseException | None = None
    while True:
        try:
            operation = core.send(value) if failure is None else core.throw(failure)
        except StopIteration as stop:
            result: T = stop.value
            return result
        value, failure = None, None
        if isinstance(operation, Park) and not operation.wakeup.fired:
            raise DeadlockError("parked, and no other task is there to wake it")
        if isinstance(operation, GracePeriod) and not operation.is_over():
            raise DeadlockError("waits for a pin that no task releases")
        if isinstance(operation, Flush):
            disk.site = lambda: site_of(core)
        if isinstance(operation, Checkpoint):
            failure = Interrupted(KeyboardInterrupt()) if disk.wants_to_stop() else None
        elif not isinstance(operation, (Park, GracePeriod)):
            try:
                value = perform(disk, operation)
            except Exception as error:
                failure = error


_PLUMBING = frozenset({"SharedFlush", "StoreState", "Flush", "Operation", "Batch"})


def site_of(core: Core[Any]) -> str:
    """Return the place in the core that waits: the innermost function that asked for it.

    The functions that share a flush are left out; their caller is the one that needs the flush.
    """
    site = "?"
    awaiting: object = core
    while isinstance(awaiting, CoroutineType):
        name = awaiting.cr_code.co_qualname
        if name.split(".")[0] not in _PLUMBING and awaiting.cr_frame is not None:
            site = f"{name}:{awaiting.cr_frame.f_lineno}"
        awaiting = awaiting.cr_await
    return site
