"""The blocking driver: steps a coroutine of the core on the calling thread.

Steps happen under one lock per store; it is not held while an operation is in
progress, so threads overlap their I/O and nothing else.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from blobstore.device.base import Device
from blobstore.device.medium import Medium
from blobstore.drivers import interrupts
from blobstore.drivers.perform import PERFORMERS, perform
from blobstore.errors import BlobstoreError
from blobstore.operations import Checkpoint, Core, GracePeriod, Interrupted, Operation, Park

P = ParamSpec("P")
T = TypeVar("T")

_LOOK_AGAIN_S: Final = 50e-6


class BlockingDriver:
    """Runs the core on one medium; any thread may call `run`.

    The core does not know what its device is called: errors get its name here.
    Where there is a store to protect (`protect`), Ctrl-C is held back while an operation runs
    (`blobstore.drivers.interrupts`). What only reads, such as a check, is interrupted anywhere.
    """

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self._name = medium.name if isinstance(medium, Device) else None
        self._on_failure: Callable[[BaseException], None] | None = None
        self._lock = threading.Lock()

    def protect(self, on_failure: Callable[[BaseException], None]) -> None:
        """Run what changes a store from now on; `on_failure` poisons it."""
        self._on_failure = on_failure

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the core in one step, beside no other."""
        try:
            with self._lock:
                return function(*args, **kwargs)
        except BlobstoreError as error:
            error.at(store=self._name)
            raise

    def run(self, core: Core[T]) -> T:
        """Run to the end, and return or raise what it returns or raises.

        An exception that is no failure of an operation (MemoryError, a second Ctrl-C) is
        raised inside the coroutine as well, so that it can clean up. When one escapes, it is
        unknown how far the core came: the store is poisoned.

        Raises:
            KeyboardInterrupt: The user wants to stop. The operation has ended, or has
                stopped at a checkpoint.
        """
        if self._on_failure is None or not interrupts.hold():
            return self._run_to_end(core)
        try:
            return self._run_to_end(core)
        finally:
            interrupts.release()

    def _run_to_end(self, core: Core[T]) -> T:
        lock, medium = self._lock, self.medium
        value: object = None
        failure: BaseException | None = None
        try:
            while True:
                with lock:
                    operation = core.send(value) if failure is None else core.throw(failure)
                value = failure = None
                try:
                    performer = PERFORMERS.get(operation.__class__)
                    if performer is not None:
                        value = performer(medium, operation)
                    else:
                        self._wait(operation)
                except BaseException as error:
                    failure = error
        except StopIteration as stop:
            result: T = stop.value
            return result
        except Interrupted as stop:
            raise stop.reason from None
        except BaseException as error:
            self._clean_up(core, error)
            raise

    def _clean_up(self, core: Core[Any], error: BaseException) -> None:
        with self._lock:
            core.close()
            if isinstance(error, BlobstoreError):
                error.at(store=self._name)
            elif self._on_failure is not None:
                self._on_failure(error)

    def _wait(self, operation: Operation[Any]) -> None:
        if isinstance(operation, Park):
            self._park(operation)
        elif isinstance(operation, GracePeriod):
            _wait_until_over(operation)
        elif isinstance(operation, Checkpoint):
            interrupt = interrupts.due()
            if interrupt is not None:
                raise Interrupted(interrupt)
        else:
            perform(self.medium, operation)

    def _park(self, operation: Park) -> None:
        event = threading.Event()
        with self._lock:
            if operation.wakeup.fired:
                return
            operation.wakeup.notify = event.set
        event.wait()


def _wait_until_over(operation: GracePeriod) -> None:
    while not operation.is_over():
        time.sleep(_LOOK_AGAIN_S)
