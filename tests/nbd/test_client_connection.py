"""A connection that threads share, and servers that mean harm."""

import errno
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobstore.device.address import open_device
from blobstore.device.base import Device
from blobstore.drivers import interrupts
from blobstore.errors import BlobstoreError, DeviceError
from blobstore.nbd.client_device import NbdDevice
from blobstore.nbd.constants import (
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Command,
    ExportFlag,
    WireError,
)
from blobstore.nbd.negotiation import Export
from blobstore.units import MIB
from tests.nbd.servers import CAN_ALL, SIZE, START_S, Transmission, agree, scripted


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run in threads, and raise what one of them raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(START_S)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


# Many requests


def test_requests_of_several_threads_are_in_flight_at_once_and_replies_come_in_any_order() -> None:
    def script(connection: socket.socket) -> None:
        served = Transmission.begin(connection)
        for _turn in range(10):
            waiting = served.requests(8)  # none is answered before all have arrived
            for request in reversed(waiting):
                served.answer(request, bytes([request.offset // 512]) * request.length)

    def work(number: int) -> None:
        for _turn in range(10):
            assert device.read(number * 512, 512) == bytes([number]) * 512

    with scripted(script) as address, open_device(address, read_only=True) as device:
        in_threads(8, work)


def test_one_thread_receives_while_others_send_more_than_sockets_hold() -> None:
    """The server answers reads of 4 MiB while writes of 4 MiB wait: nobody blocks the other."""

    def script(connection: socket.socket) -> None:
        served = Transmission.begin(connection)
        content = bytes(4 * MIB)
        for _number in range(8):
            (request,) = served.requests(1)
            served.answer(request, content)

    def work(number: int) -> None:
        if number % 2:
            device.write(0, [bytes(4 * MIB)])
        else:
            assert device.read(0, 4 * MIB) == bytes(4 * MIB)

    with scripted(script) as address, open_device(address, read_only=False) as device:
        in_threads(8, work)


def test_a_request_is_split_at_the_servers_largest_payload() -> None:
    seen: list[tuple[int, int, int]] = []
    export = Export("disk", SIZE, CAN_ALL, block_min_bytes=512, payload_max_bytes=64 * 1024)

    def script(connection: socket.socket) -> None:
        served = Transmission.begin(connection, export)
        for _number in range(7):
            (request,) = served.requests(1)
            seen.append((request.command, request.offset, request.length))
            served.answer(request, bytes(request.length))

    with scripted(script) as address, open_device(address, read_only=False) as device:
        device.read(512, 150_000 // 512 * 512)
        device.write(0, [bytes(100 * 1024)])
        device.write_zeroes(0, MIB)
        device.unmap(MIB, MIB)
    sizes = [65536, 65536, 150_000 // 512 * 512 - 2 * 65536]
    assert seen == [
        (Command.READ, 512, sizes[0]),
        (Command.READ, 512 + 65536, sizes[1]),
        (Command.READ, 512 + 2 * 65536, sizes[2]),
        (Command.WRITE, 0, 65536),
        (Command.WRITE, 65536, 100 * 1024 - 65536),
        (Command.WRITE_ZEROES, 0, MIB),
        (Command.TRIM, MIB, MIB),
    ]


def test_a_device_says_goodbye_when_it_is_closed() -> None:
    seen: list[int] = []

    def script(connection: socket.socket) -> None:
        (request,) = Transmission.begin(connection).requests(1)
        seen.append(request.command)

    with scripted(script) as address:
        open_device(address, read_only=True).close()
    assert seen == [Command.DISCONNECT]


# The end of a connection


def test_a_server_that_goes_away_ends_all_requests_in_flight() -> None:
    def script(connection: socket.socket) -> None:
        Transmission.begin(connection).requests(4)

    def work(number: int) -> None:
        with pytest.raises(DeviceError, match="connection lost: Connection reset") as caught:
            device.read(number * 512, 512)
        assert caught.value.errno == errno.ECONNRESET

    with scripted(script) as address, open_device(address, read_only=True) as device:
        in_threads(4, work)


def test_nothing_is_sent_after_a_connection_is_lost() -> None:
    connections: list[int] = []

    def script(connection: socket.socket) -> None:
        connections.append(len(Transmission.begin(connection).requests(1)))

    with scripted(script) as address, open_device(address, read_only=False) as device:
        for _turn in range(3):
            with pytest.raises(DeviceError, match="connection lost"):
                device.write(0, [bytes(512)])
    assert connections == [1]


@pytest.mark.slow
def test_a_server_that_is_silent_is_lost_after_the_addresss_timeout() -> None:
    is_over = threading.Event()

    def script(connection: socket.socket) -> None:
        Transmission.begin(connection).requests(1)
        is_over.wait(START_S)

    with scripted(script) as address, open_device(f"{address}&timeout=1", read_only=True) as device:
        with pytest.raises(DeviceError, match="does not answer in time") as caught:
            device.read(0, 512)
        is_over.set()
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.slow
def test_a_server_that_never_greets_is_left_after_the_addresss_timeout() -> None:
    is_over = threading.Event()

    def script(_connection: socket.socket) -> None:
        is_over.wait(START_S)

    with scripted(script) as address:
        with pytest.raises(DeviceError, match="connect: the server does not answer in time"):
            open_device(f"{address}&timeout=1", read_only=True)
        is_over.set()


def test_a_second_ctrl_c_ends_a_request_that_hangs_and_the_connection_with_it() -> None:
    is_over = threading.Event()

    def script(connection: socket.socket) -> None:
        Transmission.begin(connection).requests(1)
        os.kill(os.getpid(), signal.SIGINT)
        while interrupts._held.count == 0:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        is_over.wait(START_S)

    with scripted(script) as address, open_device(address, read_only=True) as device:
        with pytest.raises(KeyboardInterrupt):
            device.read(0, 512)
        is_over.set()
        with pytest.raises(DeviceError, match="connection lost: interrupted"):
            device.read(0, 512)


# Servers that mean harm


def requests_of(device: Device) -> None:
    """Ask for one of each; what is answered does not matter, what is raised does."""
    device.read(0, 1024)
    device.write(0, [bytes(512)])
    device.flush()


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_instead_of_a_handshake_are_a_typed_error(data: bytes, is_begun: bool) -> None:
    greeting = b"NBDMAGICIHAVEOPT\0\3" if is_begun else b""

    def script(connection: socket.socket) -> None:
        connection.sendall(greeting + data)

    with scripted(script) as address, pytest.raises(BlobstoreError) as caught:
        open_device(address, read_only=True)
    assert address in caught.value.message


@pytest.mark.slow
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=100), st.sampled_from([SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, None]))
def test_any_bytes_instead_of_replies_are_a_typed_error(data: bytes, magic: int | None) -> None:
    head = b"" if magic is None else struct.pack(">I", magic)

    def script(connection: socket.socket) -> None:
        Transmission.begin(connection).requests(1)
        connection.sendall(head + data)

    with (
        scripted(script) as address,
        open_device(address, read_only=False) as device,
        pytest.raises(DeviceError) as caught,
    ):
        requests_of(device)
    assert address in caught.value.message


def test_a_reply_that_nothing_asked_for_ends_the_connection() -> None:
    def script(connection: socket.socket) -> None:
        served = Transmission.begin(connection)
        (request,) = served.requests(1)
        request.cookie += 1
        served.answer(request, bytes(request.length))
        connection.recv(1)

    with scripted(script) as address, open_device(address, read_only=True) as device:
        with pytest.raises(DeviceError, match="does not keep to the protocol") as caught:
            device.read(0, 512)
        assert caught.value.errno == errno.EPROTO


@pytest.mark.parametrize(
    ("number", "expected"),
    [(WireError.IO, errno.EIO), (WireError.INVALID, errno.EINVAL), (12345, errno.EIO)],
)
def test_the_errno_is_the_servers_if_the_protocol_knows_it(number: int, expected: int) -> None:
    def script(connection: socket.socket) -> None:
        served = Transmission.begin(connection)
        (request,) = served.requests(1)
        head = struct.pack(">IHHQI", STRUCTURED_REPLY_MAGIC, 1, (1 << 15) + 1, request.cookie, 9)
        connection.sendall(head + struct.pack(">IH", number, 3) + b"why")
        connection.recv(1)

    with scripted(script) as address, open_device(address, read_only=False) as device:
        with pytest.raises(DeviceError, match=r"flush: the server answers.*why") as caught:
            device.flush()
        assert caught.value.errno == expected


def test_an_export_larger_than_offsets_is_refused_and_takes_no_memory() -> None:
    def script(connection: socket.socket) -> None:
        agree(connection, Export("disk", 2**64 - 512, CAN_ALL))

    with scripted(script) as address, pytest.raises(DeviceError, match="18446744073709551104"):
        open_device(address, read_only=True)


def test_a_server_that_says_nothing_of_flush_is_refused_for_writing() -> None:
    def script(connection: socket.socket) -> None:
        agree(connection, Export("disk", SIZE, ExportFlag.HAS_FLAGS))

    with scripted(script) as address, pytest.raises(BlobstoreError, match="no write is durable"):
        NbdDevice.open(address)
