"""The life of the process that serves attached blobs: from opening the store to unloading it.

What fails until the first device is there is told to the `attach` that has started the process.
What fails while the store is unloaded is told to the `detach` that has ended the process.

The process is in the path of the host's own writes. If the kernel had to write to one of our
devices to free memory for this process, both would wait for each other forever. So the kernel is
told not to (PR_SET_IO_FLUSHER); the threads that serve inherit that. The memory of the process is
not locked. What was swapped out is read back from the swap space, which must therefore not be on
an attached device.
"""

import contextlib
import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

from blobstore.attach.attach_place import Place
from blobstore.attach.attach_protocol import (
    AttachedDevice,
    Wanted,
    encode_device,
    encode_error,
    encode_line,
    receive_line,
)
from blobstore.attach.attach_server import AttachServer, FindBlob
from blobstore.attach.background import Report
from blobstore.attach.block_devices import AnyStore
from blobstore.errors import BlobstoreError
from blobstore.serving import ConnectionThreads, UnixListener

OpenStore: TypeAlias = Callable[[], AbstractContextManager[AnyStore]]

_PR_SET_IO_FLUSHER: Final = 57
_CONNECTIONS_MAX: Final = 16
_GRACE_S: Final = 10


class AttachProcess:
    """One such process. `open_store` opens the store, `find` finds a blob as the user names it."""

    def __init__(self, place: Place, open_store: OpenStore, find: FindBlob) -> None:
        self._place = place
        self._open_store = open_store
        self._find = find
        self._has_ended = threading.Event()
        self._failure: BaseException | None = None

    def run(self, wanted: Wanted, report: Report) -> None:
        """Open the store, attach a blob, report that or what failed, and serve until the end."""
        try:
            ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
            listener = UnixListener(self._place.socket)
            try:
                self._listen(listener.listen(), wanted, report)
            finally:
                listener.remove()
                self._place.remove()
        except BaseException as error:
            with contextlib.suppress(OSError):  # it was reported, or the user has gone
                report(encode_error(error))

    def _listen(self, listening: socket.socket, wanted: Wanted, report: Report) -> None:
        with listening, contextlib.ExitStack() as at_end:
            try:
                with self._open_store() as store:
                    server = AttachServer(store, self._place, self._find)
                    threads = ConnectionThreads(
                        listening,
                        lambda connection: self._converse(server, connection),
                        name="attach",
                        connections_max=_CONNECTIONS_MAX,
                    )

                    def attached(device: AttachedDevice) -> None:
                        os.chdir(self._place.directory)  # so NBD devices tell whose they are
                        threads.start()
                        at_end.callback(threads.stop, _GRACE_S)
                        at_end.callback(self._has_ended.set)  # this one is called first
                        report(encode_device(device))

                    server.serve(wanted, attached)
            except BaseException as error:
                self._failure = error
                raise

    def _converse(self, server: AttachServer, connection: socket.socket) -> None:
        """Answer one request."""
        try:
            answer = self._answer(server, json.loads(receive_line(connection)))
        except (BlobstoreError, OSError, ValueError, TypeError) as error:
            answer = encode_error(error)
        connection.sendall(answer)

    def _answer(self, server: AttachServer, request: dict[str, Any]) -> bytes:
        if "detach" not in request:
            return encode_device(server.attach(Wanted(**request)))
        server.detach(request["detach"])
        if server.is_ending:
            self._has_ended.wait()
            if self._failure is not None:
                return encode_error(self._failure)
        return encode_line({"is_ending": server.is_ending, "pid": os.getpid()})
