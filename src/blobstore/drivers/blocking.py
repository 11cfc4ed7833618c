"""The blocking driver: steps a coroutine of the core on the calling thread.

Steps happen under one lock per store; it is not held while an operation is in
progress, so threads overlap their I/O and nothing else.
"""

import threading
import time
from typing import Any, Final, TypeVar

from blobstore.operations import Core, Medium, Operation, Park, Quiesce

T = TypeVar("T")

_LOOK_AGAIN_S: Final = 50e-6


class BlockingDriver:
    """Runs the core on one medium; any thread may call `run`."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self._lock = threading.Lock()

    def run(self, core: Core[T]) -> T:
        """Run to the end, and return or raise what it returns or raises.

        An exception that is not an operation's failure (KeyboardInterrupt)
        is raised inside the coroutine as well, so that it can clean up.
        """
        value: object = None
        failure: BaseException | None = None
        try:
            while True:
                with self._lock:
                    try:
                        operation = core.send(value) if failure is None else core.throw(failure)
                    except StopIteration as stop:
                        result: T = stop.value
                        return result
                value, failure = self._perform(operation)
        finally:
            with self._lock:
                core.close()

    def _perform(self, operation: Operation[Any]) -> tuple[object, BaseException | None]:
        try:
            if isinstance(operation, Park):
                self._park(operation)
            elif isinstance(operation, Quiesce):
                _wait_until_quiet(operation)
            else:
                return operation.perform(self.medium), None
            return None, None
        except BaseException as error:
            return None, error

    def _park(self, operation: Park) -> None:
        event = threading.Event()
        with self._lock:
            if operation.wakeup.fired:
                return
            operation.wakeup.notify = event.set
        event.wait()


def _wait_until_quiet(operation: Quiesce) -> None:
    while not operation.is_quiet():
        time.sleep(_LOOK_AGAIN_S)
