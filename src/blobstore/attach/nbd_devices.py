"""Block devices by the kernel's NBD: each has a thread in the kernel, and one that serves it.

The second thread carries out requests as for any client of the NBD server after the handshake.
It ends when the kernel disconnects. The first thread then closes the blob.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from blobstore.api.blob import Blob
from blobstore.attach.block_devices import AnyStore, Ended
from blobstore.attach.claiming import claimed
from blobstore.attach.kernel_nbd import KernelNbd, is_open_elsewhere
from blobstore.errors import BlobstoreError, BusyError, DeviceError
from blobstore.nbd.activity import Activity
from blobstore.nbd.exports import BlobExport
from blobstore.nbd.negotiation import Agreement, Export, NbdProtocolError
from blobstore.nbd.transfer import Transfer
from blobstore.nbd.transport import ClearTransport
from blobstore.units import BlobId

_LOG: Final = logging.getLogger("blobstore.attach")
_START_TIMEOUT_S: Final = 30
_END_TIMEOUT_S: Final = 30
_LOOK_S: Final = 0.02
_LOOK_FOR_USERS_S: Final = 0.3


class NbdDevices:
    """NBD devices of the kernel that this process serves; see `BlockDevices`."""

    def __init__(self, store: AnyStore, ended: Ended) -> None:
        self._store = store
        self._ended = ended
        self._guard = threading.Lock()
        self._served: dict[str, _ServedBlob] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._guard:
            served = list(self._served.values())
        for each in served:
            each.hang_up()

    def add(self, blob_id: BlobId, *, read_only: bool) -> tuple[str, Blob]:
        blob = self._store.open_blob(blob_id)
        try:
            export = BlobExport(f"{blob_id:#x}", blob, read_only=read_only)
            served = _ServedBlob(export, self._store.info.io_unit_size)
        except BaseException:
            blob.close()
            raise
        with self._guard:
            self._served[served.path] = served
        served.start(lambda: self._forget(served, blob_id))
        return served.path, blob

    def _forget(self, served: "_ServedBlob", blob_id: BlobId) -> None:
        with self._guard:
            if self._served.get(served.path) is served:  # its device may be another blob's already
                del self._served[served.path]
        self._ended(blob_id)

    def detach(self, path: str) -> None:
        served = self._found(path)
        if not served.disconnect_if_unused():
            served.disconnect_when_closed()

    def detach_when_closed(self, path: str) -> None:
        self._found(path).disconnect_when_closed()

    def resize(self, path: str, size: int) -> None:
        self._found(path).resize(size)

    def _found(self, path: str) -> "_ServedBlob":
        with self._guard:
            if path in self._served:
                return self._served[path]
        raise DeviceError(f"{path}: has ended")


class _ServedBlob:
    """A device of the kernel, and the blob that it shows."""

    def __init__(self, export: BlobExport, block_size: int) -> None:
        self._export = export
        self._size = export.disk.size
        self._server_end, kernel_end = socket.socketpair()
        try:
            with kernel_end:  # the kernel keeps it open
                self._kernel = KernelNbd(
                    kernel_end, size=self._size, block_size=block_size, flags=export.flags
                )
        except BaseException:
            self._server_end.close()
            raise
        self.path = self._kernel.path
        self.resize = self._kernel.resize
        self._gone = threading.Event()
        self._is_ending = False

    def start(self, at_end: Callable[[], None]) -> None:
        """Serve the device until it ends, and call `at_end` then; return when it can be used.

        Raises:
            DeviceError: The kernel does not begin.
        """
        server = threading.Thread(target=self._serve, name="nbd server", daemon=True)
        server.start()
        threading.Thread(
            target=self._live, args=(server, at_end), name="nbd device", daemon=True
        ).start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._kernel.has_size(self._size):
            if self._gone.wait(_LOOK_S) or time.monotonic() > deadline:
                self.hang_up()
                raise DeviceError(f"{self.path}: the kernel does not use it")
        with open(self.path, "rb"):  # the first to open it makes the kernel look for partitions
            pass

    def _live(self, server: threading.Thread, at_end: Callable[[], None]) -> None:
        try:
            self._kernel.run()
            self._shut()
            server.join()
            self._server_end.close()
            self._export.close()
        except BlobstoreError as error:
            _LOG.error("%s: %s", self.path, error)  # unloading the store says so as well
        finally:
            self._gone.set()
            at_end()

    def _serve(self) -> None:
        agreement = Agreement(Export(self._export.name, self._size, self._export.flags))
        transport = ClearTransport(self._server_end)
        try:
            Transfer(self._export, agreement, transport, Activity()).run(b"")
        except (NbdProtocolError, OSError) as error:
            _LOG.error("%s: %s", self.path, error)
        finally:
            self._shut()

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._server_end.shutdown(socket.SHUT_RDWR)

    # The end

    def disconnect_if_unused(self) -> bool:
        """Flush the device; end it, if no program has it open. Return whether it ends.

        Raises:
            BusyError: It is mounted, or is part of something else.
            DeviceError: It could not be flushed.
        """
        with claimed(self.path, flush=True):
            if is_open_elsewhere(self.path):
                return False
            self._kernel.disconnect()
            return True

    def disconnect_when_closed(self) -> None:
        """Begin to look for a moment at which no program uses the device, and end it then."""
        if not self._is_ending:
            self._is_ending = True
            threading.Thread(target=self._look_until_unused, name="nbd end", daemon=True).start()

    def _look_until_unused(self) -> None:
        while not self._gone.is_set():
            try:
                if self.disconnect_if_unused():
                    return
            except BusyError:
                pass
            except DeviceError as error:
                _LOG.error("%s: %s", self.path, error)
                self.hang_up()
            self._gone.wait(_LOOK_FOR_USERS_S)

    def hang_up(self) -> None:
        """End the device at once, with errors for all that use it; its blob is closed then."""
        self._shut()
        self._gone.wait(_END_TIMEOUT_S)
