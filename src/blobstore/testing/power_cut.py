"""Power failures for tests of other projects: run a program once, look at all it could leave.

The program runs on a device in memory that records. `promise` notes what must survive from
then on, as a program does when it acknowledges something. `states` then yields each content
that a power failure at any moment can leave, as a device, with what was promised by then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from blobstore.testing.crash_states import CrashState, Limits, crash_contents
from blobstore.testing.simulated_device import SimulatedDevice
from blobstore.testing.simulated_disk import SimulatedDisk
from blobstore.units import parse_size

T = TypeVar("T")

_FEW: Limits = Limits(subsets=64, samples=8)


@dataclass(frozen=True, slots=True)
class AfterCut(Generic[T]):
    """What a power failure left: a device with the content, and the promises made before.

    `state` says which writes reached the device; it is for the message of an assertion.
    """

    device: SimulatedDevice
    promises: list[T]
    state: CrashState


class PowerCut(Generic[T]):
    """A device of `size` bytes that can lose its power, and the promises made on it."""

    def __init__(self, size: int | str = "1MiB", *, atomic_write_size: int = 512) -> None:
        self._size = atomic_write_size
        self._disk = SimulatedDisk(bytes(parse_size(size)), atomic_write_size=atomic_write_size)
        self.device = SimulatedDevice(self._disk)
        self._before = bytes(self._disk.content)
        self._promises: list[tuple[int, T]] = []

    def begin(self) -> None:
        """Take what the device holds now for durable: only later moments are looked at."""
        self._before = bytes(self._disk.content)
        self._disk.events.clear()
        self._promises.clear()

    def promise(self, what: T) -> None:
        """Note that `what` survives every power failure from now on."""
        self._promises.append((len(self._disk.events), what))

    def states(self, limits: Limits = _FEW) -> Iterator[AfterCut[T]]:
        """Yield what a power failure at every moment since `begin` can leave.

        Where there are very many states, `limits` says how many are tried; they are the same
        in each run. No state has a part of a write that the device makes whole.
        """
        events = list(self._disk.events)
        limits = replace(limits, atomic=self._size)
        for state, content in crash_contents(self._before, events, limits):
            promises = [what for moment, what in self._promises if moment <= state.event]
            disk = SimulatedDisk(content, atomic_write_size=self._size)
            yield AfterCut(SimulatedDevice(disk), promises, state)
