"""Shallow copies that run in the background, and what became of them."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from blobstore.api.volumes import Volume
from blobstore.device.base import Device
from blobstore.errors import BlobstoreError
from blobstore.rpc.failures import number_of


@dataclass(eq=False)
class _Copy:
    total: int
    copied: int = 0
    state: str = "in progress"
    error: str = ""
    thread: threading.Thread | None = None


class ShallowCopies:
    """The copies of a server, by their number, from 1 on for as long as it runs."""

    def __init__(self) -> None:
        self._copies: dict[int, _Copy] = {}
        self._last = 0
        self._lock = threading.Lock()

    def take_number(self) -> int:
        """Return the next number; a start that fails uses one up."""
        with self._lock:
            self._last += 1
            return self._last

    def start(
        self, number: int, volume: Volume, target: Device, at_end: Callable[[], None]
    ) -> None:
        """Copy the volume's own clusters to the target in a thread of its own.

        At the end the target is closed, and `at_end` is called.
        """
        copy = _Copy(total=volume.info.allocated_clusters)

        def progress(copied: int, _total: int) -> None:
            copy.copied = copied

        def run() -> None:
            state = "error"
            try:
                copy.copied = volume.shallow_copy(target, progress)
                state = "complete"
            except BlobstoreError as error:
                copy.error = os.strerror(number_of(error))
            finally:
                target.close()
                at_end()
                copy.state = state  # when a client hears of the end, the target is free

        copy.thread = threading.Thread(target=run, name=f"shallow copy {number}")
        self._copies[number] = copy
        copy.thread.start()

    def check(self, number: int) -> dict[str, object] | None:
        """Return how far a copy is; its end is told once. None for an unknown number."""
        copy = self._copies.get(number)
        if copy is None:
            return None
        if not copy.total and copy.thread is not None:
            copy.thread.join()  # the first check of a copy of nothing tells its end
        state = copy.state
        if state != "in progress" and self._copies.pop(number, None) is None:
            return None  # another client was told
        answer: dict[str, object] = {
            "copied_clusters": copy.copied,
            "total_clusters": copy.total,
            "state": state,
        }
        return answer | ({"error": copy.error} if state == "error" else {})

    def close(self) -> None:
        """Wait for all copies to end."""
        for copy in list(self._copies.values()):
            if copy.thread is not None:
                copy.thread.join()
