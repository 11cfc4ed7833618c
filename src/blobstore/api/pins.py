"""The pins of a store's threads: one for each thread that uses the fast path."""

import threading

from blobstore.epochs import Pin


class ThreadPins(threading.local):
    """The pins of one store: `mine` is the calling thread's, registered while the thread lives."""

    def __init__(self, registered: list[Pin]) -> None:
        """Run once in every thread that looks at `mine`."""
        self.mine = Pin()
        self._registration = Registration(registered, self.mine)


class Registration:
    """Keeps a pin registered until its thread has ended."""

    def __init__(self, registered: list[Pin], pin: Pin) -> None:
        self._registered = registered
        self._pin = pin
        registered.append(pin)

    def __del__(self) -> None:
        self._registered.remove(self._pin)
