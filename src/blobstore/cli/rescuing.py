"""A blob's content, which is read normally until an error occurs, and by rescue from then on.

Content that cannot be read at all is an error, or reads as zeroes if the caller was told so.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import click

from blobstore import (
    Blob,
    BlobId,
    BlobstoreError,
    CorruptError,
    DeviceError,
    InvalidArgumentError,
    NotFoundError,
    Severity,
    UnreadableRange,
    UnsupportedError,
)
from blobstore.cli.blob_lookup import choose, find_blob, id_in, name_matches
from blobstore.cli.content import allocated_parts, cut_in_parts, read_parts
from blobstore.cli.options import StoreOptions, UnopenedError, size
from blobstore.cli.output import SCHEMA_VERSION, error_fields, printable, unicode_text
from blobstore.cli.salvaged import nearest_salvaged, salvaged_fields, warn
from blobstore.errors import naming
from blobstore.fsck.extent_index import Kind

if TYPE_CHECKING:
    from blobstore import Rescue, RescuedBlob

zero_fill_option: Final = click.option(
    "--zero-fill", is_flag=True, help="Write zeroes for what cannot be read."
)

Hints: TypeAlias = Mapping[str, int]
"""What the caller knows of a layout, as arguments of `Rescue.open`."""


def layout_options(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options that say what a lost super block said; the function gets them as `hints`."""

    @functools.wraps(function)
    def invoke(*args: Any, **given: Any) -> int | None:
        values = {name: given.pop(name) for name in ("cluster_size", "md_start", "md_pages")}
        hints = {name: value for name, value in values.items() if value is not None}
        return function(*args, hints=hints, **given)

    cluster_size = click.option(
        "--cluster-size", type=size, help="The cluster size, if the super block is lost."
    )
    md_start = click.option(
        "--md-start", metavar="PAGE", type=click.IntRange(1), help="The first metadata page."
    )
    md_pages = click.option(
        "--md-pages", metavar="N", type=click.IntRange(1), help="How many metadata pages there are."
    )
    return cluster_size(md_start(md_pages(invoke)))


_LOST: Final = 22
_BROKEN: Final = (CorruptError, DeviceError, NotFoundError)


class UnreadableError(CorruptError):
    """A part of a blob cannot be read, and zeroes were not asked for."""

    def __init__(self, blob_id: int, ranges: Sequence[UnreadableRange]) -> None:
        length = sum(found.length for found in ranges)
        count = "1 range" if len(ranges) == 1 else f"{len(ranges)} ranges"
        super().__init__(
            f"blob {blob_id:#x}: {length} bytes cannot be read, in {count}; "
            "--zero-fill puts zeroes in their place"
        )
        self.ranges = ranges


class Content:
    """A blob to copy from. Entering opens it; afterwards it is closed, store and all.

    With `hints` it is read by rescue, whether the store opens or not. `warning` says why
    it is read by rescue, None if it is not. `salvaged` is the blob or its ancestor that a
    repair has salvaged, if there is one.
    """

    def __init__(
        self,
        options: StoreOptions,
        which: str,
        *,
        zero_fill: bool,
        hints: Hints = MappingProxyType({}),
    ) -> None:
        self._options = options
        self._hints = hints
        self._which = which
        self._id: BlobId | None = None
        self._zero_fill = zero_fill
        self._failures = (*_BROKEN, UnsupportedError) if zero_fill else _BROKEN
        self._stack = ExitStack()
        self._blob: Blob | None = None
        self._rescued: RescuedBlob | None = None
        self._met: list[UnreadableRange] = []
        self._lost_end: list[UnreadableRange] = []
        self.warning: str | None = None
        self.salvaged: BlobId | None = None

    def __enter__(self) -> Self:
        if self._hints:
            self._open_rescue(None)
            self._warn(f"{self._options.address}: its layout is given")
            return self
        try:
            store = self._stack.enter_context(self._options.open(read_only=True))
            self._id = find_blob(store, self._which)
            self._blob = self._stack.enter_context(store.open_blob(self._id))
            self._note_salvaged(self._blob.nearest_salvaged)
        except self._failures as error:
            self._turn_to_rescue(error)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def blob_id(self) -> BlobId:
        """The blob's id."""
        assert self._id is not None
        return self._id

    @property
    def size(self) -> int:
        """The blob's size in bytes, as far as it is known."""
        blob = self._rescued or self._blob
        assert blob is not None
        return blob.size

    @property
    def _has_known_end(self) -> bool:
        return self._rescued is None or self._rescued.is_whole

    @property
    def unreadable(self) -> list[UnreadableRange]:
        """What was met so far that cannot be read, and the end if that is lost."""
        return self._met + self._lost_end

    def check(self, offset: int, length: int | None) -> None:
        """Refuse a range, to the blob's end if it has no length, that is known to be unreadable.

        Raises:
            InvalidArgumentError: The blob ends before the range does.
            UnreadableError: It is, and zeroes were not asked for.
            CorruptError: Nothing at all is known of what the blob holds.
        """
        if length is not None and offset + length > self.size and self._has_known_end:
            what = f"{length} bytes at {offset}: outside of {self.size} bytes"
            raise InvalidArgumentError(f"blob {self.blob_id:#x}: {what}").at(
                store=self._options.address
            )
        if self._rescued is None:
            return
        known = self._rescued.unreadable(offset, length)
        if known and not self._zero_fill:
            raise UnreadableError(self.blob_id, known)
        if not self._rescued.is_whole and not self._rescued.size:
            raise CorruptError(f"blob {self.blob_id:#x}: nothing of it can be read")
        if length is None and known and not known[-1].length:
            self._lost_end = known[-1:]

    def amount(self, length: int) -> int:
        """Return how many bytes of the first `length` `parts` yields if it is sparse, at most."""
        if self._blob is None:
            return length
        return sum(end - start for start, end in allocated_parts(self._blob, length))

    def parts(self, offset: int, length: int, *, sparse: bool) -> Iterator[tuple[int, bytearray]]:
        """Yield (offset, bytes) of a range, in order; with `sparse` some zeroes are left out.

        The bytes are valid until the next ones are asked for.

        Raises:
            UnreadableError: There is something that cannot be read, and zeroes were not asked for.
        """
        at, end = offset, offset + length
        if self._blob is not None:
            try:
                spans = allocated_parts(self._blob, end) if sparse else [(at, end)]
                for start, stop in spans:
                    at = start
                    for data in read_parts(self._blob, offset=start, length=stop - start):
                        yield at, data
                        at += len(data)
                return
            except self._failures as error:
                self._turn_to_rescue(error)
                self.check(at, end - at)
        yield from self._rescued_parts(at, end, sparse=sparse)

    def _rescued_parts(self, at: int, end: int, *, sparse: bool) -> Iterator[tuple[int, bytearray]]:
        assert self._rescued is not None
        for part in self._rescued.parts(at, end - at):
            if sparse and part.kind is not Kind.DATA:
                if part.kind is Kind.UNREADABLE:
                    self._miss([UnreadableRange(part.offset, part.length, part.reason)])
                continue
            for start, stop in cut_in_parts(part.offset, part.offset + part.length):
                buffer = bytearray(stop - start)
                self._miss(self._rescued.read_into(buffer, start, zero_fill=True))
                yield start, buffer

    def _miss(self, ranges: Sequence[UnreadableRange]) -> None:
        if ranges and not self._zero_fill:
            raise UnreadableError(self.blob_id, ranges)
        for found in ranges:
            last = self._met[-1] if self._met else None
            if last and (last.offset + last.length, last.reason) == (found.offset, found.reason):
                length = last.length + found.length
                self._met[-1] = UnreadableRange(last.offset, length, last.reason)
            else:
                self._met.append(found)

    def _turn_to_rescue(self, cause: BlobstoreError) -> None:
        """Open the blob again, in whatever state it is, and say so.

        Raises:
            BlobstoreError: That is not possible either, or nothing is broken at all.
        """
        self._stack.close()
        self._blob = None
        cause = cause.why if isinstance(cause, UnopenedError) else cause
        self._open_rescue(cause)
        self._warn(cause.message)

    def _open_rescue(self, cause: BlobstoreError | None) -> None:
        try:
            rescue = self._stack.enter_context(open_rescue(self._options, self._hints))
            with naming(store=self._options.address):
                self._id = self._id or _find_id(rescue, self._which)
            self._rescued = _find(rescue, self.blob_id, cause)
            look = functools.partial(_look, rescue)
            self._note_salvaged(nearest_salvaged(look, self.blob_id))
        except BaseException:
            self._stack.close()
            raise

    def _note_salvaged(self, salvaged: BlobId | None) -> None:
        """Warn once that what is read may be zeroes instead of data."""
        if self.salvaged is None and salvaged is not None:
            self.salvaged = salvaged
            if not self._options.as_json:
                warn(self.blob_id, salvaged)

    def _warn(self, reason: str) -> None:
        self.warning = f"{reason}; blob {self.blob_id:#x} is read by rescue"
        if self._rescued is not None and _is_only_likely(self._rescued):
            self.warning += ": its content is likely to be right, but not proved"
        if not self._options.as_json:
            click.echo(printable(self.warning), err=True)


def open_rescue(options: StoreOptions, hints: Hints = MappingProxyType({})) -> "Rescue":
    """Open a store that need not be sound; a shell's is looked at as it is on the device.

    Raises:
        BlobstoreError: As `Rescue.open`, and `Rescue.register_external`.
    """
    from blobstore import Rescue

    rescue = options.when_free(
        lambda: Rescue.open(
            options.source,
            cluster_size=hints.get("cluster_size"),
            md_start=hints.get("md_start"),
            md_pages=hints.get("md_pages"),
            atomic_write_size=options.atomic_write,
            direct=options.direct,
        )
    )
    try:
        for identity, path in options.externals:
            rescue.register_external(identity, path)
    except BaseException:
        rescue.close()
        raise
    return rescue


def _find_id(rescue: "Rescue", which: str) -> BlobId:
    """Return the id of the blob that BLOB means among those that can be read at all."""
    number = id_in(which)
    if number is not None:
        return number
    found = [blob.id for blob in rescue.blobs() if name_matches(which, blob.xattrs.get("name"))]
    return choose(which, found)


def _find(rescue: "Rescue", blob_id: int, cause: BlobstoreError | None) -> "RescuedBlob":
    """Return the blob; one that is not there, or only about to go, is not found as before."""
    try:
        found = rescue.blob(blob_id)
    except NotFoundError as error:
        raise (cause if isinstance(cause, NotFoundError) else error) from cause
    is_broken = any(finding.severity is Severity.ERROR for finding in found.findings)
    if isinstance(cause, NotFoundError) and not is_broken:
        raise cause
    return found


def _is_only_likely(blob: "RescuedBlob") -> bool:
    """Tell whether its root, or that of a blob that it reads, is lost."""
    return any(
        finding.invariant == _LOST and finding.severity is Severity.ERROR
        for finding in blob.findings
    )


def _look(rescue: "Rescue", blob_id: BlobId) -> "RescuedBlob | None":
    try:
        return rescue.blob(blob_id)
    except NotFoundError:
        return None


# Saying it


def rescue_fields(content: Content) -> dict[str, object]:
    """Return what a result says more of a blob that was read by rescue, or was salvaged."""
    fields = salvaged_fields(content.salvaged)
    if content.warning is None:
        return fields
    return {
        "warning": unicode_text(content.warning),
        "unreadable": range_fields(content.unreadable),
        **fields,
    }


def range_fields(ranges: Sequence[UnreadableRange]) -> list[dict[str, object]]:
    """Return unreadable ranges as JSON shows them."""
    return [
        {"offset": found.offset, "length": found.length, "reason": unicode_text(found.reason)}
        for found in ranges
    ]


def render_range(found: UnreadableRange) -> str:
    """Say one range in words."""
    where = f"{found.length} bytes at {found.offset}" if found.length else f"from {found.offset} on"
    return f"unreadable: {where}: {found.reason}"


def print_ranges(ranges: Sequence[UnreadableRange], *, as_json: bool) -> None:
    """List what was replaced by zeroes on standard error; JSON has it in the result."""
    if not as_json:
        for found in ranges:
            click.echo(printable(render_range(found)), err=True)


def fail_unreadable(error: UnreadableError, *, as_json: bool) -> int:
    """Report what cannot be read; return the command's status."""
    if as_json:
        body = error_fields(error.message, error.errno)
        fields = {"error": body, "unreadable": range_fields(error.ranges)}
        click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **fields}), err=True)
    else:
        print_ranges(error.ranges, as_json=False)
        click.echo(printable(error.message), err=True)
    return 1
