"""Servers for the tests of the NBD client: real ones, and one that a test speaks for."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from blobstore.nbd.constants import Command, ExportFlag
from blobstore.nbd.negotiation import Agreement, Export, ExportRequested, Negotiation, SendBytes
from blobstore.nbd.transmission import Replies, Request, RequestStream
from blobstore.units import MIB

START_S = 60
SIZE = 8 * MIB
CAN_ALL = (
    ExportFlag.HAS_FLAGS
    | ExportFlag.SEND_FLUSH
    | ExportFlag.SEND_FUA
    | ExportFlag.SEND_TRIM
    | ExportFlag.SEND_WRITE_ZEROES
)


def needed(program: str) -> str:
    """Return where a program is; skips the test if it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="nbd") as directory:
        yield Path(directory)


@dataclass
class Served:
    """A real server that runs."""

    process: "subprocess.Popen[bytes]"
    address: str

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def nbdkit(*arguments: object, query: str = "", scheme: str = "nbd+unix") -> Iterator[Served]:
    """Run nbdkit on a socket of its own."""
    program = needed("nbdkit")
    with short_directory() as directory:
        place, pid_file = directory / "s", directory / "pid"
        command = [program, "-f", "-U", str(place), "-P", str(pid_file), *map(str, arguments)]
        with _running(command, pid_file) as process:
            yield Served(process, f"{scheme}:///?socket={place}{query}")


@contextmanager
def qemu_nbd(image: Path, *, port: int | None = None) -> Iterator[Served]:
    """Run qemu-nbd on a socket of its own, or on a port of this machine."""
    program = needed("qemu-nbd")
    with short_directory() as directory:
        place, pid_file = directory / "s", directory / "pid"
        at = ["-k", str(place)] if port is None else ["-b", "127.0.0.1", "-p", str(port)]
        command = [program, "-t", "-f", "raw", *at, "--pid-file", str(pid_file), str(image)]
        with _running(command, pid_file) as process:
            yield Served(process, f"nbd+unix:///?socket={place}")


@contextmanager
def _running(command: list[str], pid_file: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Both servers write their pid file once they listen."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + START_S
        while not (pid_file.exists() and pid_file.read_text().strip()):
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(f"{command}: {process.stderr.read().decode()}")
            assert time.monotonic() < deadline, command
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


# A server that a test speaks for


Script = Callable[[socket.socket], None]


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """Serve one connection by a function; yields the address."""
    with short_directory() as directory:
        place = str(directory / "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen()
        listener.settimeout(START_S)

        def serve() -> None:
            with suppress(OSError):
                connection, _peer = listener.accept()
                with connection:
                    connection.settimeout(START_S)
                    script(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"nbd+unix:///disk?socket={place}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(START_S)
            os.unlink(place)


DISK = Export("disk", SIZE, CAN_ALL)


def agree(connection: socket.socket, export: Export = DISK) -> Agreement:
    """Serve the handshake of one export."""
    negotiation = Negotiation()
    connection.sendall(negotiation.greeting)
    while negotiation.agreement is None:
        event = negotiation.next_event()
        if isinstance(event, SendBytes):
            connection.sendall(event.data)
        elif isinstance(event, ExportRequested):
            connection.sendall(negotiation.accept(event, export))
        else:
            assert event is None, event
            received = connection.recv(4096)
            assert received
            negotiation.receive(received)
    return negotiation.agreement


@dataclass
class Transmission:
    """The server's side of a connection after its handshake."""

    connection: socket.socket
    replies: Replies
    _stream: RequestStream
    _arrived: list[Request] = field(default_factory=list)

    @classmethod
    def begin(cls, connection: socket.socket, export: Export = DISK) -> "Transmission":
        agreement = agree(connection, export)
        replies = Replies(structured=agreement.structured, extended=agreement.extended)
        return cls(connection, replies, RequestStream(extended=agreement.extended))

    def requests(self, count: int) -> list[Request]:
        """Wait for so many requests; payloads are not kept."""
        while len(self._arrived) < count:
            count_received = self.connection.recv_into(self._stream.space())
            if not count_received:
                raise ConnectionError
            requests = self._stream.received(count_received)
            self._arrived += [request for request in requests if request.is_last]
        found, self._arrived = self._arrived[:count], self._arrived[count:]
        return found

    def answer(self, request: Request, content: bytes = b"") -> None:
        """Answer a request well; a read with these bytes."""
        if request.command != Command.READ:
            self.connection.sendall(self.replies.done(request))
            return
        head = self.replies.data_head(request, request.offset, len(content))
        self.connection.sendall(head + content)
