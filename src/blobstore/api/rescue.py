"""Rescue: reads whatever is readable of a store that does not open, or of a blob in the store.

The device is only ever read. The replacement of a broken super block is kept in memory.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from blobstore.api.arguments import (
    check_flags,
    id_of,
    integer_of,
    optional,
    size_of,
    value_of,
    writable_bytes_of,
)
from blobstore.api.external import External, open_external
from blobstore.api.source import Source, open_source, traits_of
from blobstore.device.base import Device
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError, ClosedError, InvalidArgumentError, naming
from blobstore.format.page import NO_PAGE, PAGE_SIZE
from blobstore.fsck.bisecting_read import Failure, read_parts
from blobstore.fsck.extent_index import (
    ExtentIndex,
    Part,
    Surroundings,
    UnreadableRange,
    merged,
    parts_of,
    unreadable_in,
)
from blobstore.fsck.finding import Finding
from blobstore.fsck.metadata_start import LayoutHints
from blobstore.fsck.rescuer import KnownBlob, Rescuer, open_rescue
from blobstore.operations import ExternalSource
from blobstore.store.names import name_in
from blobstore.units import BlobId

_CLUSTER_SIZE_END: Final = 1 << 32


class Rescue:
    """A store that is read whatever is wrong with it. Leaving its `with` closes it.

    One thread at a time. What `Blobstore` reads of a sound store, this reads as well.
    """

    def __init__(self, device: Device, rescuer: Rescuer, closing: ExitStack) -> None:
        self._device = device
        self._rescuer = rescuer
        self._driver = BlockingDriver(device)
        self._externals: dict[bytes, ExternalSource] = {}
        self._closing = closing
        self._is_open = True

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        cluster_size: int | str | None = None,
        md_start: int | None = None,
        md_pages: int | None = None,
        atomic_write_size: int | None = None,
        direct: bool = False,
    ) -> Self:
        """Look at all of a store's metadata; a device that was given stays open at the end.

        Whatever the super block holds, root pages say where the metadata is, and in most
        cases how large clusters are. Where they do not, the caller says it: `cluster_size`
        in bytes or as ``"64KiB"``, `md_start` and `md_pages` in metadata pages. What is
        given is believed, whatever the super block says.

        Raises:
            NotFoundError: There is no such file.
            BusyError: Another process has it open for writing.
            DeviceError: It cannot be opened.
            CorruptError: The super block is broken, and what it said cannot be determined;
                the message tells which argument is needed.
            InvalidArgumentError: A size or a number of pages that no store can have.
        """
        hints = _hints(cluster_size, md_start, md_pages)
        with ExitStack() as stack:
            device = open_source(
                source, read_only=True, atomic_write_size=atomic_write_size, direct=direct
            )
            if device is not source:
                stack.callback(device.close)
            rescuer = BlockingDriver(device).run(open_rescue(traits_of(device), hints))
            return cls(device, rescuer, stack.pop_all())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong with the store, as `check` finds it."""
        return self._rescuer.findings

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the super block is taken to say where it is broken, and why, in words."""
        return self._rescuer.notes

    def blobs(self) -> Iterator["RescuedBlob"]:
        """Yield every blob of which anything is left, in the order of their ids.

        Raises:
            ClosedError: This was closed.
            DeviceError: The device failed.
        """
        for blob_id in self._rescuer.ids:
            yield self.blob(blob_id)

    def blob(self, blob_id: int) -> "RescuedBlob":
        """Return a blob, in whatever state it is.

        Raises:
            NotFoundError: There is no such blob.
        """
        wanted = id_of(blob_id)
        with naming(blob=wanted):
            self._check_open()
            known = self._driver.run(self._rescuer.look(wanted))
        findings = self._rescuer.findings_of(known.blob)
        return RescuedBlob(self, known, findings)

    @property
    def cluster_size(self) -> int:
        """The size of a cluster in bytes."""
        return self._rescuer.view.geometry.cluster_size

    def register_external(self, external_id: bytes, what: External | None) -> None:
        """Say what an external snapshot's id stands for, as `Blobstore.register_external`.

        Raises:
            NotFoundError: There is no such file.
            DeviceError: It cannot be opened.
        """
        self._check_open()
        external_id = value_of(external_id, "external_id")
        if what is None:
            self._externals.pop(external_id, None)
            return
        source, opened = open_external(what)
        if opened is not None:
            self._closing.callback(opened.close)
        self._externals[external_id] = source

    def close(self) -> None:
        """Let go of the device; calling it again does nothing."""
        self._is_open = False
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Rescue {self._device.name!r}{'' if self._is_open else ' closed'}>"

    # For its blobs

    def _named(self, error: BlobstoreError, blob_id: BlobId) -> BlobstoreError:
        """Name the store and the blob in an error, and return the error."""
        return error.at(store=self._device.name, blob=blob_id)

    def _check_open(self) -> None:
        """Raise `ClosedError` when this was closed."""
        if not self._is_open:
            raise ClosedError("closed").at(store=self._device.name)

    def _places_of(self, blob_id: BlobId) -> ExtentIndex:
        """Return where a blob lies."""
        with naming(blob=blob_id):
            self._check_open()
            return self._driver.run(self._rescuer.map_of(blob_id))

    def _parts_of(self, blob_id: BlobId, offset: int, length: int) -> Iterator[Part]:
        """Return the parts of a range of a blob."""
        around = Surroundings(self.cluster_size, self._device.size_bytes, self._external_size)
        return parts_of(self._places_of(blob_id), around, offset, length)

    def _external_size(self, external_id: bytes) -> int | None:
        source = self._externals.get(external_id)
        return None if source is None else source.size_bytes

    def _read_parts(self, parts: Iterator[Part], view: memoryview) -> list[Failure]:
        """Fill the view with parts that follow each other, with zeroes for what cannot be read."""
        self._check_open()
        return self._driver.run(read_parts(parts, view, self._externals))


def _hints(
    cluster_size: int | str | None, md_start: int | None, md_pages: int | None
) -> LayoutHints:
    """Check what the caller knows of the layout."""
    size = optional(size_of, cluster_size, "cluster_size")
    md_start = optional(integer_of, md_start, "md_start")
    md_pages = optional(integer_of, md_pages, "md_pages")
    if size is not None and (size % PAGE_SIZE or not 0 < size < _CLUSTER_SIZE_END):
        raise InvalidArgumentError(
            f"cluster_size: expected a multiple of {PAGE_SIZE} below 4 GiB, got {size}"
        )
    for name, value in (("md_start", md_start), ("md_pages", md_pages)):
        if value is not None and not 0 < value < NO_PAGE:
            raise InvalidArgumentError(f"{name}: expected at least 1, got {value}")
    return LayoutHints(size, md_start, md_pages)


class RescuedBlob:
    """A blob as far as it can be read. Offsets, lengths and sizes are bytes."""

    def __init__(self, rescue: Rescue, known: KnownBlob, findings: tuple[Finding, ...]) -> None:
        blob = known.blob
        self._rescue = rescue
        self.id: BlobId = blob.blob_id
        self.size: int = blob.cluster_count * rescue.cluster_size
        self.xattrs: dict[str, bytes] = blob.xattrs
        self.parent: BlobId | None = blob.parent_id
        self.findings: tuple[Finding, ...] = findings
        self.is_whole: bool = not known.is_cut_off

    @property
    def name(self) -> str | None:
        """The attribute ``name`` as text, without padding; None if there is none."""
        return name_in(self.xattrs)

    def unreadable(self, offset: int = 0, length: int | None = None) -> list[UnreadableRange]:
        """Return what cannot be read of the blob or of a part, as far as that is known beforehand.

        Of a blob that may be larger than `size`, the last range begins there and has no length.
        A part of the device that fails is only known when it is read.

        Raises:
            InvalidArgumentError: The range reaches beyond the blob.
        """
        found = unreadable_in(self.parts(offset, length))
        if length is None and not self.is_whole:
            found.append(
                UnreadableRange(self.size, 0, "the blob may be larger than what was found")
            )
        return found

    def parts(self, offset: int = 0, length: int | None = None) -> Iterator[Part]:
        """Yield what the blob or a part of it consists of: data, holes, and what is unreadable.

        Raises:
            InvalidArgumentError: The range reaches beyond the blob.
        """
        offset, length = integer_of(offset, "offset"), optional(integer_of, length, "length")
        wanted = max(0, self.size - offset) if length is None else length
        if wanted < 0 or (wanted and not 0 <= offset <= self.size - wanted):
            error = InvalidArgumentError(
                f"{wanted} bytes at {offset}: outside of {self.size} bytes"
            )
            raise self._rescue._named(error, self.id)
        return self._rescue._parts_of(self.id, offset, wanted)

    def read(self, length: int, offset: int = 0, *, zero_fill: bool = False) -> bytes:
        """Return `length` bytes at `offset`; with `zero_fill` zeroes for what cannot be read.

        Raises:
            InvalidArgumentError: The range reaches beyond the blob.
            CorruptError: Some of it is unreadable.
            DeviceError: The device failed.
        """
        self.parts(offset, integer_of(length, "length"))
        buffer = bytearray(length)
        self.read_into(buffer, offset, zero_fill=zero_fill)
        return bytes(buffer)

    def read_into(
        self, buffer: Any, offset: int = 0, *, zero_fill: bool = False
    ) -> list[UnreadableRange]:
        """Fill a writable, contiguous buffer from `offset`; return what could not be read.

        Where there is anything, and no `zero_fill`, this fails instead.

        Raises:
            BlobstoreError: As `read`; the buffer then holds anything.
        """
        check_flags(zero_fill=zero_fill)
        view = writable_bytes_of(buffer)
        failures = self._rescue._read_parts(self.parts(offset, len(view)), view)
        if failures and not zero_fill:
            raise self._rescue._named(failures[0].error(self.id), self.id)
        return merged(failure.range for failure in failures)

    def __repr__(self) -> str:
        return f"<RescuedBlob {self.id:#x} of {self.size} bytes>"
