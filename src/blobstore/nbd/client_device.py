"""An export of an NBD server as a device.

What the server says of the export decides how it is used. Requests are split at its largest
payload. Where it takes whole blocks alone, the edges of other requests are read, changed and
written back, while no other request may change them. Zeroes and trims are asked for where
the server has them.

Durability is the server's: a FLUSH, and the promise that it covers all writes that were answered
before. A server that has no FLUSH but FUA gets FUA with every change. A server that has neither
cannot keep a store: it is opened read-only.

A connection that is lost stays lost (`client_connection`): the device fails every request from
then on, so a store is poisoned as by a disk that fails. Nothing is sent again. The size is
that of the connection; a server that has grown an export tells it to the next one.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Final

from blobstore.device.base import SECTOR_SIZE, Device, buffer_length, byte_views
from blobstore.device.bounce import Cursor
from blobstore.device.forking import fork_lock, open_devices
from blobstore.device.ranges import BlockRanges, covering_blocks, partial_blocks, whole_blocks
from blobstore.errors import InvalidArgumentError, ReadOnlyError, UnsupportedError
from blobstore.nbd.client_address import NbdAddress
from blobstore.nbd.client_connection import NbdConnection
from blobstore.nbd.client_failures import answered_failure
from blobstore.nbd.client_transmission import views_between
from blobstore.nbd.constants import Command, CommandFlag, ExportFlag
from blobstore.operations import Buffer
from blobstore.units import GIB, MIB

_WITHOUT_DATA_MAX: Final = GIB  # a length has 32 bits; a multiple of every block
_PHYSICAL_MAX: Final = 4096  # what a server prefers can be as large as a stripe of its disks
_ZEROES: Final = memoryview(bytes(MIB))


class NbdDevice(Device):
    """A device on an NBD server, over one connection that threads share.

    A trimmed range may read as anything: the protocol promises nothing.
    """

    needs_undo_path: ClassVar[bool] = True

    def __init__(
        self,
        connection: NbdConnection,
        *,
        name: str,
        read_only: bool,
        block_size: int | None = None,
        atomic_write_size: int | None = None,
    ) -> None:
        """Take over a connection; `open` is the way to get here."""
        export = connection.agreement.export
        flags = export.flags
        self._connection = connection
        self._owner = os.getpid()
        self._unit = export.block_min_bytes
        self._payload_max = export.payload_max_bytes
        self._ranges = BlockRanges()
        self._has_flush = ExportFlag.SEND_FLUSH in flags
        self._has_trim = ExportFlag.SEND_TRIM in flags
        self._has_zeroes = ExportFlag.SEND_WRITE_ZEROES in flags
        self._flags = CommandFlag.NONE if self._has_flush else CommandFlag.FUA
        if not read_only:
            _check_writable(flags, name)
        block = max(SECTOR_SIZE, self._unit)
        super().__init__(
            name=name,
            size_bytes=export.size_bytes,
            block_size=block if block_size is None else _checked_block(block_size, block, name),
            physical_block_size=max(block, min(export.block_preferred_bytes, _PHYSICAL_MAX)),
            atomic_write_size=SECTOR_SIZE if atomic_write_size is None else atomic_write_size,
            read_only=read_only,
            unmap_zeroes=False,
        )
        open_devices.add(self)

    @classmethod
    def open(
        cls,
        address: str,
        *,
        read_only: bool = False,
        block_size: int | None = None,
        atomic_write_size: int | None = None,
    ) -> "NbdDevice":
        """Connect to the export that an address names (`client_address`).

        There is no lock: the server must see to it that one client writes.

        Raises:
            InvalidArgumentError: The address or a size is malformed.
            NotFoundError: No such socket, or no such export.
            ReadOnlyError: The export cannot be written to.
            UnsupportedError: The server cannot make writes durable.
            AccessError: The server or the operating system does not let this client in.
            DeviceError: The server is not there, or does not keep to the protocol.
        """
        connection = NbdConnection.open(NbdAddress.parse(address))
        try:
            return cls(
                connection,
                name=address,
                read_only=read_only,
                block_size=block_size,
                atomic_write_size=atomic_write_size,
            )
        except BaseException:
            connection.close()
            raise

    # Reading

    def read(self, offset: int, length: int) -> bytes:
        self.check_read(offset, length)
        content = bytearray(length)
        self._read(offset, [memoryview(content)], length)
        return bytes(content)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        views = byte_views(buffers)
        length = buffer_length(views)
        self.check_read(offset, length)
        if any(view.readonly for view in views):
            raise TypeError("read_into: a read-only buffer, expected a writable one")
        self._read(offset, views, length)

    def _read(self, offset: int, views: list[memoryview], length: int) -> None:
        start, end = covering_blocks(offset, offset + length, self._unit)
        if end - start == length:
            self._read_blocks(offset, views, length)
        elif length:
            blocks = memoryview(bytearray(end - start))
            self._read_blocks(start, [blocks], end - start)
            Cursor(views).drain(blocks[offset - start : offset - start + length])

    def _read_blocks(self, offset: int, views: list[memoryview], length: int) -> None:
        for at, size in _pieces(length, self._payload_max):
            into = views_between(views, at, size)
            self._ask(Command.READ, "read", offset + at, size, views=into)

    # Writing

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        views = byte_views(buffers)
        length = buffer_length(views)
        self.check_write(offset, length)
        start, end = covering_blocks(offset, offset + length, self._unit)
        if end - start == length:
            with self._changing(start, end):
                self._write_blocks(offset, views, length)
        elif length:
            self._write_parts(offset, views, length)

    def _write_parts(self, offset: int, views: list[memoryview], length: int) -> None:
        """Write blocks of which one or two are covered in part: they are read first."""
        stop, unit = offset + length, self._unit
        start, end = covering_blocks(offset, stop, unit)
        edges = partial_blocks(offset, stop, unit)
        with self._ranges.hold(start, end, edges):
            found = {edge: memoryview(bytearray(unit)) for edge in edges}
            for edge, block in found.items():
                self._read_blocks(edge, [block], unit)
            before = found[start][: offset - start] if offset != start else _ZEROES[:0]
            after = found[end - unit][unit - (end - stop) :] if stop != end else _ZEROES[:0]
            self._write_blocks(start, [before, *views, after], end - start)

    def _write_blocks(self, offset: int, views: list[memoryview], length: int) -> None:
        for at, size in _pieces(length, self._payload_max):
            data = views_between(views, at, size)
            self._ask(Command.WRITE, "write", offset + at, size, flags=self._flags, data=data)

    # Zeroes

    def write_zeroes(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        start, end = whole_blocks(offset, offset + length, self._unit)
        if not self._has_zeroes or start == end:
            self._write_zero_bytes(offset, offset + length)
            return
        self._ask_in_pieces(Command.WRITE_ZEROES, "write zeroes", start, end)
        self._write_zero_bytes(offset, start)
        self._write_zero_bytes(end, offset + length)

    def unmap(self, offset: int, length: int) -> None:
        self.check_write(offset, length)
        if self._has_trim:
            start, end = whole_blocks(offset, offset + length, self._unit)
            self._ask_in_pieces(Command.TRIM, "unmap", start, end)

    def _ask_in_pieces(self, command: Command, what: str, start: int, end: int) -> None:
        with self._changing(start, end):
            for at, size in _pieces(end - start, _WITHOUT_DATA_MAX):
                self._ask(command, what, start + at, size, flags=self._flags)

    def _write_zero_bytes(self, offset: int, end: int) -> None:
        for at, size in _pieces(end - offset, len(_ZEROES)):
            self.write(offset + at, [_ZEROES[:size]])

    def _changing(self, start: int, end: int) -> AbstractContextManager[None]:
        """Keep those out that read, change and write back a block of the range."""
        return nullcontext() if self._unit == 1 else self._ranges.hold(start, end)

    # Durability

    def flush(self) -> None:
        """Make every completed write durable, by a FLUSH of the server, or by what FUA did.

        Durability: on return, as far as the server keeps its promise.

        Raises:
            DeviceError: The server failed, or the connection is lost.
            ClosedError: The device was closed.
        """
        self.check_open()
        if self._has_flush and not self.read_only:
            self._ask(Command.FLUSH, "flush", 0, 0)

    # Requests

    def _ask(
        self,
        command: Command,
        what: str,
        offset: int,
        length: int,
        *,
        flags: CommandFlag = CommandFlag.NONE,
        data: Sequence[memoryview] = (),
        views: Sequence[memoryview] = (),
    ) -> None:
        call = self._connection.call(command, offset, length, flags=flags, data=data, views=views)
        if call.error:
            raise answered_failure(self.name, what, call)

    # The end

    def close(self) -> None:
        with fork_lock:
            if self._closed:
                return
            super().close()
            if os.getpid() == self._owner:
                self._connection.close()
            else:
                self._connection.close_in_child()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_size_bytes"):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


def open_nbd(
    address: str,
    *,
    read_only: bool,
    atomic_write_size: int | None,
    block_size: int | None,
    direct: bool,
) -> NbdDevice:
    """Open what an address names, as `blobstore.device.address.open_device` asks for it.

    Raises:
        UnsupportedError: Direct I/O is asked for. Also what `NbdDevice.open` raises.
    """
    if direct:
        raise UnsupportedError(f"{address}: a server has no direct I/O; its own cache is its own")
    return NbdDevice.open(
        address,
        read_only=read_only,
        block_size=block_size,
        atomic_write_size=atomic_write_size,
    )


def _check_writable(flags: ExportFlag, name: str) -> None:
    if ExportFlag.READ_ONLY in flags:
        raise ReadOnlyError(f"{name}: the export is read-only")
    if ExportFlag.SEND_FLUSH not in flags and ExportFlag.SEND_FUA not in flags:
        raise UnsupportedError(f"{name}: the server has neither FLUSH nor FUA: no write is durable")


def _checked_block(size: int, least: int, name: str) -> int:
    if size % least:
        raise InvalidArgumentError(
            f"{name}: block size {size}: expected a multiple of the server's {least}"
        )
    return size


def _pieces(length: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of pieces of at most `most` bytes."""
    for at in range(0, length, most):
        yield at, min(most, length - at)
