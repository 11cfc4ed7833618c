"""The server: a Unix socket, one thread for each connection, and a clean end.

Requests of one connection are called one after the other; those of several run beside each
other. A peer that breaks a limit or sends no JSON is told so, and hung up on. Requests that were
accepted are finished when the server stops.
"""

import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from blobstore.api.store_handle import device_below
from blobstore.api.volumes import VolumeStore
from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.device.rbd_cluster import has_ceph_modules
from blobstore.errors import BlobstoreError, ExistsError
from blobstore.rpc import (
    bdev_methods,
    framework_methods,
    lvol_methods,
    lvstore_methods,
    nbd_methods,
)
from blobstore.rpc.bdevs import WRITE_ONE, AioBdev
from blobstore.rpc.configuration import apply_configuration, read_configuration
from blobstore.rpc.failures import number_of
from blobstore.rpc.json_stream import InvalidJsonError, Json, JsonStream, Members
from blobstore.rpc.methods import METHODS, call
from blobstore.rpc.protocol import (
    INTERNAL_ERROR,
    PARSE_ERROR,
    Batch,
    BatchAnswers,
    Message,
    Refusal,
    RpcError,
    decode_message,
    encode_error,
    encode_result,
)
from blobstore.rpc.target import Target
from blobstore.serving import ConnectionThreads, UnixListener

_LOG: Final = logging.getLogger("blobstore.rpc")
_POLLED: Final = frozenset({"nbd_get_statistics"})
"""Methods that a viewer calls each second."""
_CONNECTIONS_MAX: Final = 64
_RECEIVED_AT_ONCE: Final = 64 * 1024
_ANSWER_TIMEOUT_S: Final = 60
_BLOCK_SIZE: Final = 512
_LOGGED_MAX: Final = 400
_HEAD_SIZE: Final = 4096
"""The bytes in which a store would have its super block."""

FAMILIES: Final = (
    bdev_methods,
    framework_methods,
    lvstore_methods,
    lvol_methods,
    nbd_methods,
)
"""The modules with the methods: importing one enters its methods into the table."""
assert METHODS
if has_ceph_modules():  # the original answers "Method not found" in a build without Ceph, too
    import_module("blobstore.rpc.rbd_methods")


class RpcServer:
    """Serves volume stores by JSON-RPC, as the original does. Leaving its `with` stops it.

    `stores` are image files or block devices: each becomes an `aio` block device of the file's
    name, and the store on it is loaded. `configuration` is a file of the original's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        configuration: str | os.PathLike[str] | None = None,
        stores: Sequence[str | os.PathLike[str]] = (),
        open_store: VolumeStore | None = None,
        wait_for_rpc: bool = False,
    ) -> None:
        """Load what is named, then listen; `wait_for_rpc` begins in the start-up state.

        `open_store` is a store that the caller has open; the server closes it at its end.

        Raises:
            BusyError: Another server has the socket.
            InvalidArgumentError: The configuration is none, or one of its calls failed.
            BlobstoreError: One of `stores` cannot be opened, holds no store, or a damaged one.
            OSError: The socket cannot be made.
        """
        self.path = os.fspath(path)
        self.target = Target(
            is_initialized=not (wait_for_rpc or configuration),
            socket_directory=os.path.dirname(os.path.abspath(self.path)),
        )
        self._socket = UnixListener(self.path)
        try:
            self._load(configuration, stores, wait_for_rpc=wait_for_rpc)
            if open_store is not None:
                self._adopt(open_store)
            listener = self._socket.listen()
        except BaseException:
            self.target.close()
            self._socket.remove()
            raise
        self._threads = ConnectionThreads(
            listener, self._converse, name="rpc", connections_max=_CONNECTIONS_MAX
        )
        self._threads.start()

    def _load(
        self,
        configuration: str | os.PathLike[str] | None,
        stores: Sequence[str | os.PathLike[str]],
        *,
        wait_for_rpc: bool,
    ) -> None:
        if configuration is not None:
            apply_configuration(self.target, read_configuration(configuration))
        elif not wait_for_rpc:
            self.target.start()
        for store in stores:
            self._load_store(os.fspath(store))

    def _load_store(self, path: str) -> None:
        """Make a block device of a file, and load the store on it; a blank file has none yet.

        Raises:
            ExistsError: Another device has the name of the file.
            BlobstoreError: The file cannot be opened, or holds something else.
        """
        with ExitStack() as stack:
            device = open_device(Path(path), read_only=False, block_size=_BLOCK_SIZE)
            stack.callback(device.close)
            is_blank = _is_blank(device)
            bdev = AioBdev(
                os.path.basename(path),
                None,
                device,
                filename=path,
                block_size=device.block_size,
                given_block_size=_BLOCK_SIZE,
                fallocate=False,
                nowait=False,
            )
            try:
                self.target.stores.register(bdev, is_blank=is_blank, raises=not is_blank)
            except RpcError as error:  # the table of devices has answered
                message = f"another device is named {bdev.name!r}"
                raise ExistsError(message).at(store=path) from error
            stack.pop_all()
        if is_blank:
            _LOG.warning("%s: holds no store yet: its first bytes are zeroes", path)

    def _adopt(self, store: VolumeStore) -> None:
        """Take a store that is open already, and the device that it is on."""
        device = device_below(store)
        bdev = AioBdev(
            os.path.basename(device.name),
            None,
            device,
            filename=device.name,
            block_size=device.block_size,
            given_block_size=device.block_size,
            fallocate=False,
            nowait=False,
        )
        bdev.claim_for(WRITE_ONE)
        self.target.stores.register(bdev)
        self.target.stores.adopt(store, bdev)

    # Connections

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        stream = JsonStream()
        while data := connection.recv(_RECEIVED_AT_ONCE):
            try:
                for value in stream.feed(data):
                    self._answer(connection, decode_message(value))
            except InvalidJsonError as error:
                _LOG.info("parse error: %s", error)
                answer = encode_error(None, RpcError(PARSE_ERROR, "Parse error"))
                _send(connection, answer)
                return

    def _answer(self, connection: socket.socket, message: Message | Batch) -> None:
        if not isinstance(message, Batch):
            answer = self._one(message)
            if answer is not None:
                _send(connection, answer)
            return
        answers = BatchAnswers(len(message.messages))
        for part in message.messages:
            whole = answers.add(self._one(part))
            if whole is not None:
                _send(connection, whole)

    def _one(self, message: Message) -> str | None:
        """Make one call, and return its answer; None where the peer wants none."""
        if isinstance(message, Refusal):
            return encode_error(message.id_text, message.error)
        begin, outcome = time.monotonic(), "ok"
        try:
            return encode_result(message.id_text, call(self.target, message.method, message.params))
        except RpcError as error:
            outcome = _described(error)
            return encode_error(message.id_text, error)
        except BlobstoreError as error:
            outcome = str(error)
            failure = RpcError(INTERNAL_ERROR, os.strerror(number_of(error)))
            return encode_error(message.id_text, failure)
        except Exception:
            _LOG.exception("%s: a fault of this server", message.method)
            outcome = "fault"
            return encode_error(message.id_text, RpcError(INTERNAL_ERROR, "Internal error"))
        finally:
            taken_ms = (time.monotonic() - begin) * 1000
            level = logging.DEBUG if message.method in _POLLED else logging.INFO
            asked = _named_in(message.params)
            _LOG.log(level, "%s%s %.1f ms %s", message.method, asked, taken_ms, outcome)

    # The end

    def close(self) -> None:
        """Finish the calls under way, unload every store clean, and remove the socket.

        Calling it again does nothing.
        """
        if self.target.stopping.is_set():
            return
        self.target.stopping.set()
        self.target.initialized.set()
        self._threads.stop(_ANSWER_TIMEOUT_S)
        self.target.close()
        self._socket.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _described(error: RpcError) -> str:
    """Return the answer of a failed call, and why: the answer has the text of an errno alone."""
    answer = f"{error.code} {error.message}"
    why = error.__cause__
    return f"{answer} ({why})" if isinstance(why, BlobstoreError) else answer


def _named_in(params: Json) -> str:
    """Return the names that a call was given, such as `` name='lvs/v'``, for the log."""
    if not isinstance(params, Members):
        return ""
    given = [f" {name}={value!r}" for name, value in params.pairs if isinstance(value, str)]
    return "".join(given)[:_LOGGED_MAX]


def _is_blank(device: Device) -> bool:
    """Tell whether a device can get its first store: it begins with zeroes where others do."""
    head = device.read(0, min(_HEAD_SIZE, device.size_bytes))
    is_whole = len(head) == _HEAD_SIZE and device.size_bytes % _BLOCK_SIZE == 0
    return is_whole and not any(head)


def _send(connection: socket.socket, answer: str) -> None:
    connection.sendall(answer.encode("ascii") + b"\n")
