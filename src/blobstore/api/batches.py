"""Batches: thousands of requests of one length, translated and performed together.

A batch is an array of offsets and an array of rows, one row of bytes for each offset. Offsets
become places on the device in a few steps of NumPy over the blobs' maps, under one pin of the
epoch (`api.fast_path` has the argument). The requests whose bytes lie in one cluster of the blob
or of an ancestor are then performed together: on an io_uring where it pays, and by plain calls
elsewhere. Everything else takes the full path, one request at a time: holes, copy-on-write,
requests over several clusters, and all that has failed, because the full path knows every error.

Requests of a batch are performed in any order. The bounds of all are checked first.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from blobstore.alloc.leaves import (
    ABSENT,
    LEAF_MASK,
    LEAF_SHIFT,
    LEAF_SIZE,
    Leaf,
    Leaves,
    leaves_for,
)
from blobstore.api.arguments import bytes_of, integer_of, writable_bytes_of, wrong_type
from blobstore.api.fast_path import FastPath
from blobstore.device.ring import READ, WRITE
from blobstore.device.ring_batches import Numbers, transfer
from blobstore.epochs import UNPINNED
from blobstore.errors import BlobstoreError, InvalidArgumentError
from blobstore.metadata.store_state import StoreState

Rows: TypeAlias = npt.NDArray[np.uint8]

_FULL_PATH: Final = -1
"""The place of a request that the full path performs."""

_GATHERED: Final = 4
"""So many requests pay for making an array of one leaf."""

_LEAST_GATHERED: Final = 64
"""Units of fewer bytes are as fast by plain calls."""

_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """The requests of a batch that go to one blob, by their numbers in the batch; None: all."""

    blob: FastPath
    numbers: Numbers | None = None


def read(parts: Sequence[Part], offsets: Numbers, rows: Rows) -> None:
    """Fill `rows[i]` with what its blob holds at `offsets[i]`.

    Raises:
        InvalidArgumentError: A range reaches beyond its blob; nothing was read.
        DeviceError: The device failed. The errors' `request` is the number of the request.
    """
    left = _transfer(parts, offsets, rows, is_write=False)
    if len(left):
        for part in parts:
            _take_full_path(part, left, part.blob._read_fully, offsets, rows)


def write(blob: FastPath, offsets: Numbers, rows: Rows) -> None:
    """Write `rows[i]` at `offsets[i]`.

    Raises:
        InvalidArgumentError: A range reaches beyond the blob; nothing was written.
        ReadOnlyError, NoSpaceError, DeviceError: As `Blob.write`; the errors' `request` is the
            number of the request. Others may have been written.
    """
    part = Part(blob)
    left = _transfer([part], offsets, rows, is_write=True)
    if len(left):
        _take_full_path(part, left, blob._write_fully, offsets, rows)


def _take_full_path(
    part: Part,
    left: Numbers,
    call: Callable[[memoryview, int], None],
    offsets: Numbers,
    rows: Rows,
) -> None:
    mine = np.sort(left) if part.numbers is None else np.intersect1d(left, part.numbers)
    for number in mine.tolist():
        try:
            call(rows[number].data, int(offsets[number]))
        except BlobstoreError as error:
            error.at(request=number)
            raise


# The fast part


def _transfer(parts: Sequence[Part], offsets: Numbers, rows: Rows, *, is_write: bool) -> Numbers:
    """Perform all that lies in one cluster; return the numbers of the requests that are left."""
    if not rows.nbytes:
        return np.arange(len(offsets))
    blob = parts[0].blob  # all of one store: the pin and the device are the same
    bits = int(np.bitwise_or.reduce(offsets))
    pin = blob._pins.mine
    # First the pin, then every look at what may change, never the other way round.
    pin.epoch = blob._epochs.current
    try:
        places = _places_of_all(parts, offsets, bits, rows.shape[1], is_write=is_write)
        return _perform(blob, places, bits, rows, is_write=is_write)
    finally:
        pin.epoch = UNPINNED


def _places_of_all(
    parts: Sequence[Part], offsets: Numbers, bits: int, length: int, *, is_write: bool
) -> Numbers:
    """Translate the offsets of all parts, and check their bounds.

    `bits` are those that are set in any offset. They tell at once whether one is negative.
    """
    places = offsets
    for part in parts:
        mine = offsets if part.numbers is None else offsets[part.numbers]
        found = _places(part.blob, mine, bits, length, is_write=is_write)
        # A request that has a place lies within the blob.
        if bits < 0 or np.count_nonzero(found < 0):
            _check_bounds(part, mine, length)
        if part.numbers is None:
            return found
        if places is offsets:
            places = np.empty_like(offsets)
        places[part.numbers] = found
    return places


def _places(blob: FastPath, offsets: Numbers, bits: int, length: int, *, is_write: bool) -> Numbers:
    """Return where the bytes of requests are on the device, as far as one cluster holds them."""
    size = blob._cluster_size
    indices = offsets // size
    try:
        if is_write and not blob._takes_writes():
            raise IndexError
        leaf_count = leaves_for(blob._state.clusters.count)
        clusters = _clusters_at(blob._leaves, leaf_count, indices)
        if not is_write and np.count_nonzero(clusters) < len(clusters):
            # Second, never first, as on the fast path.
            inherited = _clusters_at(blob._state.inherited, leaf_count, indices)
            clusters = np.where(clusters, clusters, inherited)
    except IndexError:  # beyond the end, closed or shrunk meanwhile
        return np.full(len(offsets), _FULL_PATH)
    places = clusters - indices
    places *= size
    places += offsets
    if np.count_nonzero(clusters) < len(clusters):
        places[clusters == 0] = _FULL_PATH
    if bits & (length - 1) or length & (length - 1) or size % length:
        places[offsets - indices * size > size - length] = _FULL_PATH
    return places


def _clusters_at(leaves: Leaves, leaf_count: int, indices: Numbers) -> Numbers:
    """Look places of a map up; 0 where there is no cluster, or the core must be asked.

    Raises:
        IndexError: The map has no such place.
    """
    if leaf_count * _GATHERED <= len(indices):
        tables = [_entries(leaves[number]) for number in range(leaf_count)]
        table = tables[0] if len(tables) == 1 else np.concatenate(tables)
        return table[indices].astype(np.int64)
    found = [leaves[index >> LEAF_SHIFT][index & LEAF_MASK] for index in indices.tolist()]
    return np.array(found, np.int64)


def _entries(leaf: Leaf) -> npt.NDArray[np.uint32]:
    if leaf is ABSENT:
        return _NO_ENTRIES
    if isinstance(leaf, range):
        return np.arange(leaf.start, leaf.stop, dtype=np.uint32)
    return np.frombuffer(leaf, np.uint32)


_NO_ENTRIES: Final = np.zeros(LEAF_SIZE, np.uint32)


def _check_bounds(part: Part, offsets: Numbers, length: int) -> None:
    size = part.blob._state.clusters.count * part.blob._cluster_size
    is_outside = (offsets < 0) | (offsets > size - length)
    if is_outside.any():
        at = int(np.argmax(is_outside))
        text = f"{length} bytes at {offsets[at]}: outside of {size} bytes"
        number = at if part.numbers is None else int(part.numbers[at])
        raise part.blob._named(InvalidArgumentError(text)).at(request=number)


def _perform(blob: FastPath, places: Numbers, bits: int, rows: Rows, *, is_write: bool) -> Numbers:
    """Perform the requests that have a place; return the numbers of all others, and of failed."""
    is_placed = places >= 0
    if np.count_nonzero(is_placed) == len(places):
        return _perform_all(blob, places, None, bits, rows, is_write=is_write)
    numbers = np.flatnonzero(is_placed)
    if not len(numbers):
        return np.arange(len(places))
    failed = numbers[_perform_all(blob, places[numbers], numbers, bits, rows, is_write=is_write)]
    return np.concatenate([np.flatnonzero(~is_placed), failed])


def _perform_all(
    blob: FastPath,
    places: Numbers,
    numbers: Numbers | None,
    bits: int,
    rows: Rows,
    *,
    is_write: bool,
) -> Numbers:
    """Perform the requests of these numbers; return which of the places have failed."""
    if blob._device.is_mapped and _gather(blob, places, numbers, bits, rows):
        return places[:0]
    numbers = np.arange(len(places)) if numbers is None else numbers
    failed = _on_ring(blob, places, numbers, bits, rows, is_write=is_write)
    if failed is None:
        return _by_calls(blob, places, numbers, rows, is_write=is_write)
    return failed


def _gather(
    blob: FastPath, places: Numbers, numbers: Numbers | None, bits: int, rows: Rows
) -> bool:
    """Copy from a mapped device; tell whether all was there and the places are no odd ones.

    The device's size is asked for once, before: a device that is shorter than it was is left
    to plain calls, which fail where mapped memory would end the process.
    """
    length = rows.shape[1]
    unit = _lowest_bit(bits | length | blob._cluster_size)
    if unit < _LEAST_GATHERED:
        return False
    try:
        view = blob._device.view(0, blob._device.size_bytes)
    except BlobstoreError:
        return False
    units = np.frombuffer(view, f"V{unit}", len(view) // unit)
    indices = places // unit
    if length > unit:
        indices = indices[:, None] + np.arange(length // unit)
    found = rows.view(f"V{unit}").reshape(len(rows), *indices.shape[1:])
    if numbers is None:
        units.take(indices, out=found, mode="clip")  # other modes copy once more
    else:
        found[numbers] = units[indices]
    return True


def _lowest_bit(number: int) -> int:
    return number & -number


def _on_ring(
    blob: FastPath, places: Numbers, numbers: Numbers, bits: int, rows: Rows, *, is_write: bool
) -> Numbers | None:
    """Perform requests on the thread's ring; return which failed, or None: it does not pay."""
    length, start = rows.shape[1], rows.__array_interface__["data"][0]
    descriptor = blob._device.ring_descriptor(
        is_write=is_write,
        offset_bits=bits | length | blob._cluster_size,
        address_bits=start | length,
        count=len(places),
    )
    if descriptor is None:
        return None
    addresses = numbers * length
    addresses += start
    if not is_write:
        return transfer(READ, descriptor, places, addresses, length, memory=rows)
    with blob._device.hold_blocks(int(places.min()), int(places.max()) + length):
        return transfer(WRITE, descriptor, places, addresses, length, memory=rows)


def _by_calls(
    blob: FastPath, places: Numbers, numbers: Numbers, rows: Rows, *, is_write: bool
) -> Numbers:
    """Perform requests one after the other, as `FastPath` does; return which failed."""
    call: Any = blob._pwrite if is_write else blob._preadv
    target, length, flat = blob._target, rows.shape[1], rows.reshape(-1).data
    failed: list[int] = []
    for at, (number, place) in enumerate(zip(numbers.tolist(), places.tolist(), strict=True)):
        row = flat[number * length : (number + 1) * length]
        try:
            if call(target, row if is_write else (row,), place) != length:
                failed.append(at)
        except OSError:
            failed.append(at)
    return np.array(failed, np.int64)


# What callers pass


def parts_of(blobs: Any, count: int, core: StoreState) -> list[Part]:
    """Return which of a batch's requests go to which blob.

    Raises:
        TypeError: One of them is no open blob.
        InvalidArgumentError: One of them is of another store, or there are not as many.
    """
    if not isinstance(blobs, Iterable):
        raise wrong_type("blobs", blobs, expected="open blobs")
    numbers: dict[FastPath, list[int]] = {}
    for number, blob in enumerate(blobs):
        if not isinstance(blob, FastPath):
            raise wrong_type(f"blobs[{number}]", blob, expected="an open blob")
        if blob._core is not core:
            raise InvalidArgumentError(f"blobs[{number}]: of another store")
        numbers.setdefault(blob, []).append(number)
    found = sum(map(len, numbers.values()))
    if found != count:
        raise InvalidArgumentError(f"blobs: expected one for each of {count} offsets, got {found}")
    return [Part(blob, np.array(mine)) for blob, mine in numbers.items()]


def offsets_of(value: Any) -> Numbers:
    """Return offsets as an array.

    Raises:
        TypeError: They are not integers in one dimension.
    """
    try:
        offsets = np.asarray(value)
    except (ValueError, OverflowError):
        raise wrong_type("offsets", value, expected="integers") from None
    if offsets.ndim != 1 or (len(offsets) and offsets.dtype.kind not in "iu"):
        raise wrong_type("offsets", value, expected="integers in one dimension")
    return offsets.astype(np.int64, copy=False)


def rows_to_fill(out: Any, count: int, length: Any) -> Rows:
    """Return the rows that a batch of reads fills: new ones, or what the caller gives.

    Raises:
        TypeError: `out` is no contiguous buffer that can be written to.
        InvalidArgumentError: It has another size.
    """
    length = integer_of(length, "length")
    if length < 0:
        raise InvalidArgumentError(f"length: expected 0 or more, got {length}")
    if out is None:
        return _aligned(count, length)
    view = writable_bytes_of(out, "out")
    if view.nbytes != count * length:
        raise InvalidArgumentError(f"out: {view.nbytes} bytes, expected {count} times {length}")
    return _rows(view, count, length)


def rows_to_write(data: Any, count: int) -> Rows:
    """Return the rows of a batch of writes, all of one length.

    Raises:
        TypeError: `data` is no contiguous buffer.
        InvalidArgumentError: Its size is no multiple of the count.
    """
    view = bytes_of(data)
    if view.nbytes % (count or 1) or (view.nbytes and not count):
        raise InvalidArgumentError(
            f"data: {view.nbytes} bytes, expected {count} rows of one length"
        )
    return _rows(view, count, view.nbytes // (count or 1))


def _rows(view: memoryview, count: int, length: int) -> Rows:
    if not view.nbytes:
        return np.empty((count, length), np.uint8)
    return np.frombuffer(view, np.uint8).reshape(count, length)


def _aligned(count: int, length: int) -> Rows:
    """Make rows that begin at a page: direct I/O takes them as they are."""
    memory = np.empty(count * length + _PAGE, np.uint8)
    skipped = -memory.__array_interface__["data"][0] % _PAGE
    return memory[skipped : skipped + count * length].reshape(count, length)
