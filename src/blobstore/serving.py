"""What servers share: sockets that listen, a thread for each connection, and a clean end.

A server accepts as many connections as it has room for; further ones wait in the system's queue.
The end comes in two steps. First the peers can send no more: requests that were received are
finished and answered. Then, after a grace time, connections whose peers do not take their answers
are cut.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from typing import Final

from blobstore.device.lock_holder import describe_holder
from blobstore.errors import BusyError, ExistsError, InvalidArgumentError, PathNotFoundError

_BACKLOG: Final = 512
_PATH_MAX: Final = 107

Serve = Callable[[socket.socket], None]


class ConnectionThreads:
    """Accepts connections on a socket, and serves each on a thread of its own.

    `serve` is called with a connection, and returns when that ends. It may leave the socket open.
    Nothing is accepted before `start`.
    """

    def __init__(
        self, listener: socket.socket, serve: Serve, *, name: str, connections_max: int
    ) -> None:
        self._listener = listener
        self._serve_connection = serve
        self._name = name
        self._slots = threading.Semaphore(connections_max)
        self._guard = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._stopping = False
        self._acceptor = threading.Thread(target=self._accept, name=f"{name} accept", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            self._slots.acquire()
            try:
                connection, _address = self._listener.accept()
            except OSError:
                if self._stopping:
                    return
                self._slots.release()  # the peer has gone already, or there are too many files
                time.sleep(_PAUSE_S)
                continue
            self._start_thread(connection)

    def _start_thread(self, connection: socket.socket) -> None:
        thread = threading.Thread(
            target=self._serve, args=(connection,), name=self._name, daemon=True
        )
        with self._guard:
            self._threads.add(thread)
        self.track(connection)
        try:
            thread.start()
        except RuntimeError:  # the system has no room for one more thread now
            self._end(connection, thread)
            time.sleep(_PAUSE_S)

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._serve_connection(connection)
        except OSError:
            pass  # the peer is gone: what it asked for is done all the same
        finally:
            self._end(connection, threading.current_thread())

    def _end(self, connection: socket.socket, thread: threading.Thread) -> None:
        self.forget(connection)
        connection.close()
        with self._guard:
            self._threads.discard(thread)
        self._slots.release()

    def track(self, connection: socket.socket) -> None:
        """Have a connection ended with the server; a wrapper of one replaces it."""
        with self._guard:
            self._connections.add(connection)
            is_late = self._stopping
        if is_late:
            _shut(connection, socket.SHUT_RD)

    def forget(self, connection: socket.socket) -> None:
        """Stop tracking a connection."""
        with self._guard:
            self._connections.discard(connection)

    def stop(self, grace_s: float) -> None:
        """Accept no more, finish what was received, and return when all connections have ended."""
        self._stopping = True
        _shut(self._listener, socket.SHUT_RDWR)
        self._slots.release()  # the acceptor can be waiting for room
        self._acceptor.join()
        self._listener.close()
        self._shut_all(socket.SHUT_RD)
        if not self._join(grace_s):
            self._shut_all(socket.SHUT_RDWR)
            self._join(grace_s)

    def _shut_all(self, how: int) -> None:
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            _shut(connection, how)

    def _join(self, timeout_s: float) -> bool:
        """Wait for the connections' threads; return whether all have ended."""
        deadline = time.monotonic() + timeout_s
        with self._guard:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


_PAUSE_S: Final = 0.05


def _shut(connection: socket.socket, how: int) -> None:
    """Shut a socket down. That of an encrypted connection must not begin to send in clear."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, how)


class UnixListener:
    """A Unix socket that belongs to the owner alone, and the lock that marks it as served."""

    def __init__(self, path: str) -> None:
        """Take the lock, then listen.

        Raises:
            BusyError: Another server of this package has the socket.
            InvalidArgumentError: The path is too long for a socket.
            PathNotFoundError: There is no such directory.
            OSError: The socket cannot be made.
        """
        length = len(os.fsencode(path))
        if length > _PATH_MAX:
            raise InvalidArgumentError(
                f"{path}: a path of {length} bytes, a Unix socket's has at most {_PATH_MAX}"
            )
        self.path = path
        self._lock_file = _locked(path)
        self._is_bound = False

    def listen(self) -> socket.socket:
        """Return a socket that listens at the path; a socket at which nothing listens is replaced.

        Raises:
            BusyError: Another program listens there.
            ExistsError: Something else is at the path.
            OSError: The socket cannot be made.
        """
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise ExistsError("exists, and is no socket").at(store=self.path)
            _check_unused(self.path)
            os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # bind makes the file with this mode
            listener.bind(self.path)
        except OSError as error:
            listener.close()
            raise _named(error, self.path) from error
        self._is_bound = True
        listener.listen(_BACKLOG)
        return listener

    def remove(self) -> None:
        """Remove the socket and the lock."""
        if self._is_bound:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.path}.lock")
        os.close(self._lock_file)


def _locked(path: str) -> int:
    """Take the lock that marks a socket as served by this process.

    Raises:
        BusyError: Another server has it.
        PathNotFoundError: There is no such directory.
        OSError: The lock's file cannot be made.
    """
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise PathNotFoundError("a socket cannot be made there: no such directory").at(
            store=path
        ) from error
    except OSError as error:
        raise _named(error, f"{path}.lock") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = describe_holder(descriptor)
        os.close(descriptor)
        raise BusyError(f"in use by {holder}").at(store=path) from error
    return descriptor


def _check_unused(path: str) -> None:
    """Check that nothing listens at a socket: it may be another program's, which has no lock.

    Raises:
        BusyError: Something listens there.
        OSError: It cannot be told.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full queue is one of a program that listens
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except (BlockingIOError, ConnectionError):
            pass
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a socket of datagrams has a reader, too
                raise _named(error, path) from error
    raise BusyError("in use: another program listens there").at(store=path)


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 is any free one.

    Raises:
        OSError: There is no such address, or it is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # the number of the first is none of errno's
        why = error.strerror if isinstance(error, OSError) else "not the name of a host"
        raise OSError(errno.EADDRNOTAVAIL, why, f"{host}:{port}") from error
    family, kind, protocol, _name, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _named(error, f"{host}:{port}") from error
    return listener


def _named(error: OSError, place: str) -> OSError:
    """Return the error with the address that it is about."""
    return OSError(error.errno, error.strerror, place)
