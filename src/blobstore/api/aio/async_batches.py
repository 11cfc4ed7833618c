"""Batches under asyncio: requests of one length, a limited number in progress at a time.

The data path performs each; what is asked for in one turn of the event loop enters the kernel
together. A batch saves the caller a task for each request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from blobstore.api.aio.async_data_path import AsyncDataPath
from blobstore.api.arguments import wrong_type
from blobstore.api.batches import Rows
from blobstore.device.ring_batches import Numbers
from blobstore.errors import BlobstoreError, InvalidArgumentError
from blobstore.metadata.store_state import StoreState

_IN_PROGRESS_MAX: Final = 64


async def read(blobs: Sequence[AsyncDataPath], offsets: Numbers, rows: Rows) -> None:
    """Fill `rows[i]` with what `blobs[i]` holds at `offsets[i]`.

    Raises:
        InvalidArgumentError: A range reaches beyond its blob; nothing was read.
        DeviceError: The device failed. The error's `request` is the number of the request.
    """
    _check_bounds(blobs, offsets, rows.shape[1])
    places = offsets.tolist()
    await _perform_all(len(places), lambda at: blobs[at].read_into(rows[at].data, places[at]))


async def write(blob: AsyncDataPath, offsets: Numbers, rows: Rows) -> None:
    """Write `rows[i]` at `offsets[i]`.

    Raises:
        InvalidArgumentError: A range reaches beyond the blob; nothing was written.
        ReadOnlyError, NoSpaceError, DeviceError: As `Blob.write`; the errors' `request` is the
            number of the request. Others may have been written.
    """
    _check_bounds([blob] * len(offsets), offsets, rows.shape[1])
    places = offsets.tolist()
    await _perform_all(len(places), lambda at: blob.write(rows[at].data, places[at]))


def blobs_of(blobs: Any, count: int, core: StoreState) -> list[AsyncDataPath]:
    """Return the blobs of a batch's requests.

    Raises:
        TypeError: One of them is no open blob.
        InvalidArgumentError: One of them is of another store, or there are not as many.
    """
    if not isinstance(blobs, Iterable):
        raise wrong_type("blobs", blobs, expected="open blobs")
    found: list[AsyncDataPath] = []
    for number, blob in enumerate(blobs):
        if not isinstance(blob, AsyncDataPath):
            raise wrong_type(f"blobs[{number}]", blob, expected="an open blob")
        if blob._core is not core:
            raise InvalidArgumentError(f"blobs[{number}]: of another store")
        found.append(blob)
    if len(found) != count:
        raise InvalidArgumentError(
            f"blobs: expected one for each of {count} offsets, got {len(found)}"
        )
    return found


def _check_bounds(blobs: Sequence[AsyncDataPath], offsets: Numbers, length: int) -> None:
    for number, (blob, offset) in enumerate(zip(blobs, offsets.tolist(), strict=True)):
        size = blob._state.clusters.count * blob._cluster_size
        if not 0 <= offset <= size - length:
            text = f"{length} bytes at {offset}: outside of {size} bytes"
            raise blob._named(InvalidArgumentError(text)).at(request=number)


async def _perform_all(count: int, perform: Callable[[int], Awaitable[object]]) -> None:
    """Perform requests by some tasks, and raise the first failure when all have ended."""
    numbers = iter(range(count))
    tasks = [_perform_some(numbers, perform) for _ in range(min(count, _IN_PROGRESS_MAX))]
    failures = [found for found in await asyncio.gather(*tasks, return_exceptions=True) if found]
    if failures:
        raise failures[0]


async def _perform_some(
    numbers: Iterator[int], perform: Callable[[int], Awaitable[object]]
) -> None:
    """Perform the next request that no other task has taken, until there is none."""
    for number in numbers:
        try:
            await perform(number)
        except BlobstoreError as error:
            error.at(request=number)
            raise
