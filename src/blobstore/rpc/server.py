"""The server: a Unix socket, one thread for each connection, and a clean end.

Requests of one connection are called one after the other; those of several run beside each
other. A peer that breaks a limit or sends no JSON is told so, and hung up on. Requests that were
accepted are finished when the server stops.
"""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from blobstore.errors import BlobstoreError, BusyError
from blobstore.rpc import bdev_methods, framework_methods, lvol_methods, lvstore_methods
from blobstore.rpc.configuration import apply_configuration, read_configuration
from blobstore.rpc.failures import number_of
from blobstore.rpc.json_stream import InvalidJsonError, JsonStream
from blobstore.rpc.methods import METHODS, call
from blobstore.rpc.parameters import CreateAio
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

_LOG: Final = logging.getLogger("blobstore.rpc")
_CONNECTIONS_MAX: Final = 64
_BACKLOG: Final = 512
_RECEIVED_AT_ONCE: Final = 64 * 1024
_ANSWER_TIMEOUT_S: Final = 60
_BLOCK_SIZE: Final = 512

FAMILIES: Final = (bdev_methods, framework_methods, lvstore_methods, lvol_methods)
"""The modules with the methods: importing one enters its methods into the table."""
assert METHODS


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
        wait_for_rpc: bool = False,
    ) -> None:
        """Load what is named, then listen; `wait_for_rpc` begins in the start-up state.

        Raises:
            BusyError: Another server has the socket.
            InvalidArgumentError: The configuration is none, or one of its calls failed.
            OSError: The socket cannot be made, or a store's file cannot be opened.
        """
        self.path = os.fspath(path)
        self.target = Target(is_initialized=not (wait_for_rpc or configuration))
        self._slots = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._guard = threading.Lock()
        self._lock_file = _locked(f"{self.path}.lock")
        try:
            self._load(configuration, stores, wait_for_rpc=wait_for_rpc)
            self._listener = _listening(self.path)
        except BaseException:
            self.target.close()
            self._unlock()
            raise
        self._acceptor = threading.Thread(target=self._accept, name="rpc accept", daemon=True)
        self._acceptor.start()

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
            path = os.fspath(store)
            given = CreateAio(name=os.path.basename(path), filename=path, block_size=_BLOCK_SIZE)
            try:
                bdev_methods.create_aio(self.target, given)
            except RpcError as error:
                raise OSError(abs(error.code), error.message, path) from error

    # Connections

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return  # the server stops
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._guard:
                self._connections.add(connection)
                self._threads.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(None)
            self._converse(connection)
        except OSError:
            pass  # the peer is gone: what it asked for is done all the same
        finally:
            with self._guard:
                self._connections.discard(connection)
                self._threads.discard(threading.current_thread())
            connection.close()
            self._slots.release()

    def _converse(self, connection: socket.socket) -> None:
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
            outcome = f"{error.code} {error.message}"
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
            _LOG.info("%s %.1f ms %s", message.method, taken_ms, outcome)

    # The end

    def close(self) -> None:
        """Finish the calls under way, unload every store clean, and remove the socket.

        Calling it again does nothing.
        """
        if self.target.stopping.is_set():
            return
        self.target.stopping.set()
        self.target.initialized.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._guard:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_ANSWER_TIMEOUT_S)
        self.target.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._unlock()

    def _unlock(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.path}.lock")
        os.close(self._lock_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _send(connection: socket.socket, answer: str) -> None:
    connection.sendall(answer.encode("ascii") + b"\n")


def _locked(path: str) -> int:
    """Take the lock that marks a socket as served by this process.

    Raises:
        BusyError: Another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BusyError(f"{path}: another server has it") from error
    return descriptor


def _listening(path: str) -> socket.socket:
    """Return a socket that listens at a path, for the owner alone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener
