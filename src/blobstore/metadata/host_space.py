"""Space on the host for metadata, before anything depends on it (CRASH-SAFETY 1, "Space").

The metadata of a store in a regular file is a hole at first: a page for each cluster can be more
than the disk below has. A hole gets its space when it is written, and that can fail. Metadata is
written in flushes, which must not fail for space. So the range from the device's beginning up to
`StoreState.backed_pages` is asked for beforehand, and grows in chunks:

- Super block and masks come first, before the first change: unloading never fails for space.
- Pages are claimed lowest first. As long as as many pages are free below that end as are promised,
  or needed by the operation that is about to begin, no write reaches beyond it.

A promise is one step, and asking the host takes time. So a promise whose pages have no space yet
fails (`HostSpaceNeededError`), and the caller asks the host and tries again. Devices that are no
files have their space always.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from blobstore.errors import NoSpaceError
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Allocate
from blobstore.units import KIB, PageIndex, ceil_div

T = TypeVar("T")

CHUNK_BYTES: Final = 256 * KIB
"""So much is asked for at once; where that is not there, as little as will do."""


class HostSpaceNeededError(NoSpaceError):
    """The host must give some pages their space first; nothing has changed."""

    def __init__(self, page_count: int) -> None:
        super().__init__(f"metadata pages: {page_count} without space on the host yet")
        self.page_count = page_count


def has_space(store: StoreState, page_count: int) -> bool:
    """Tell whether `page_count` free pages, reserved ones included, have space on the host."""
    end = store.backed_pages
    if end is None:
        return False
    if not page_count or end >= store.geometry.md_len:
        return True
    page_zero = 0 if store.used_ids[0] else 1
    return end - store.pages.used.count(1, 0, end) - page_zero >= page_count


async def give_space(store: StoreState, page_count: int) -> None:
    """Make the host allocate space for `page_count` free pages, the super block and the masks.

    Raises:
        NoSpaceError: The host has no space; nothing changed.
    """
    if has_space(store, page_count):
        return
    await give_space_below(store, _end_of(store, page_count))


def _end_of(store: StoreState, page_count: int) -> PageIndex:
    """Return the end of the first `page_count` free pages; of all pages if fewer are free."""
    if not page_count:
        return PageIndex(0)
    wanted = page_count + (0 if store.used_ids[0] else 1)
    free = store.pages.lowest_free(wanted)
    return PageIndex(free[-1] + 1 if len(free) == wanted else store.geometry.md_len)


async def give_space_below(store: StoreState, end: PageIndex) -> None:
    """Have the host give space to all metadata before this page.

    Raises:
        NoSpaceError: The host has no space; nothing changed.
    """
    before = store.backed_pages
    if before is not None and before >= end:
        return
    per_chunk = max(1, CHUNK_BYTES // store.geometry.page_size)
    roomy = PageIndex(min(ceil_div(end, per_chunk) * per_chunk, store.geometry.md_len))
    try:
        await _allocate(store, before, roomy)
    except NoSpaceError:
        if roomy == end:
            raise
        await _allocate(store, before, end)


async def _allocate(store: StoreState, before: PageIndex | None, end: PageIndex) -> None:
    start = 0 if before is None else store.geometry.page_offset(before)
    await Allocate(start, store.geometry.page_offset(end) - start)
    store.backed_pages = max(store.backed_pages or end, end)


async def with_space(store: StoreState, attempt: Callable[[], T]) -> T:
    """Make a change that promises pages, as soon as they have their space; return its result.

    Raises:
        NoSpaceError: There are no such pages, or the host has no space; nothing changed.
    """
    while True:
        try:
            return attempt()
        except HostSpaceNeededError as needed:
            await give_space(store, needed.page_count)
