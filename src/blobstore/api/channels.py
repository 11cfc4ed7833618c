"""Which thread is on the fast lane: one channel for each thread that uses a store."""

import threading

from blobstore.locks import Channel


class Channels(threading.local):
    """The channels of one store: `mine` is the calling thread's, registered while it lives."""

    def __init__(self, registered: list[Channel]) -> None:
        """Run once in every thread that looks at `mine`."""
        self.mine = Channel()
        self._seat = Seat(registered, self.mine)


class Seat:
    """Keeps a channel registered until its thread has ended."""

    def __init__(self, registered: list[Channel], channel: Channel) -> None:
        self._registered = registered
        self._channel = channel
        registered.append(channel)

    def __del__(self) -> None:
        self._registered.remove(self._channel)
