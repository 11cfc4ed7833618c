"""The simulated driver: many tasks of the core, in an order that a seed decides.

Every step of a task and every completion of an operation is an event of its
own; which one comes next is drawn by chance. Operations of a batch complete
one by one, in any order. The same seed gives the same run.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from blobstore.drivers.perform import perform
from blobstore.errors import BlobstoreError
from blobstore.operations import Batch, Checkpoint, Core, GracePeriod, Operation, Park
from blobstore.testing.alone import DeadlockError
from blobstore.testing.simulated_disk import SimulatedDisk

_NOT_PERFORMED: Final = (Park, GracePeriod, Checkpoint, Batch)


@dataclass(slots=True, eq=False)
class Task:
    """One coroutine: what it waits for, and how it ended."""

    name: str
    core: Core[Any]
    waiting: Operation[Any] | None = None
    parts: list[Operation[Any]] | None = None
    failure: BaseException | None = None
    value: object = None
    done: bool = False
    result: object = None
    error: BlobstoreError | None = None


class Scheduler:
    """Runs tasks to their ends on one disk; the order follows from the seed."""

    def __init__(self, disk: SimulatedDisk, seed: int) -> None:
        self.disk = disk
        self.rng = random.Random(seed)
        self.tasks: list[Task] = []
        self.trace: list[str] = []

    def spawn(self, name: str, core: Core[Any]) -> Task:
        """Add a task; it begins when its turn comes."""
        task = Task(name, core)
        self.tasks.append(task)
        return task

    def run(self) -> Sequence[Task]:
        """Run until every task has ended, and return them.

        Raises:
            DeadlockError: Those that are left wait for each other.
        """
        while left := [task for task in self.tasks if not task.done]:
            ready = [task for task in left if _is_ready(task)]
            if not ready:
                raise DeadlockError(f"tasks {[task.name for task in left]} wait for each other")
            self._advance(self.rng.choice(ready))
        return self.tasks

    def _advance(self, task: Task) -> None:
        """Complete (a part of) what the task waits for, or let it take a step."""
        self.trace.append(task.name)
        if task.parts:
            self._perform(task, task.parts.pop(self.rng.randrange(len(task.parts))))
        elif task.waiting is not None and not isinstance(task.waiting, _NOT_PERFORMED):
            operation, task.waiting = task.waiting, None
            task.value = self._perform(task, operation)
        else:
            task.waiting = task.parts = None
            self._step(task)

    def _perform(self, task: Task, operation: Operation[Any]) -> object:
        try:
            return perform(self.disk, operation)
        except BlobstoreError as error:
            task.failure = task.failure or error
            return None

    def _step(self, task: Task) -> None:
        failure, task.failure = task.failure, None
        value, task.value = task.value, None
        try:
            if failure is None:
                task.waiting = task.core.send(value)
            else:
                task.waiting = task.core.throw(failure)
        except StopIteration as stop:
            task.done, task.result = True, stop.value
        except BlobstoreError as error:
            task.done, task.error = True, error
        if isinstance(task.waiting, Batch):
            task.parts = list(task.waiting.parts)


def _is_ready(task: Task) -> bool:
    """Tell whether the task can go on: nothing parks it."""
    if isinstance(task.waiting, Park):
        return task.waiting.wakeup.fired
    if isinstance(task.waiting, GracePeriod):
        return task.waiting.is_over()
    return True
