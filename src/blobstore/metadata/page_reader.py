"""The page reader: gets metadata pages from the device, and reads ahead where that pays.

Pages come in windows, naturally aligned and twice as large as the last one near by. So blobs
that lie next to each other are read in large pieces, upwards and downwards, also when roots and
extent pages lie in places of their own; and a single blob costs no more than its pages.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

from blobstore.errors import DeviceError
from blobstore.format.geometry import Geometry
from blobstore.format.page import PAGE_SIZE
from blobstore.operations import Read
from blobstore.units import PageIndex

Fetch: TypeAlias = Callable[[PageIndex], Awaitable[bytes]]
"""Gives the 4096 bytes of a metadata page that lies in the region."""

_NEAR: Final = 16
"""A page at most this many pages away from a window is near the window. So the cost of a wrong
guess stays in proportion to the request."""
LARGEST_WINDOW_BYTES: Final = 1 << 20
KEPT_WINDOW_BYTES: Final = 1 << 15
"""How large the windows of a reader are that is kept for the next opening."""
_KEPT_WINDOWS: Final = 2
"""One near the roots and one near their extent pages."""
_NO_PAGES: Final[Mapping[PageIndex, bytes]] = {}


class _Window(NamedTuple):
    """Neighbouring pages of the region, from `first` up to `end`."""

    first: int
    end: int
    data: bytes


_NO_WINDOW: Final = _Window(0, 0, b"")


class PageReader:
    """Reads pages; windows are kept for a while, so no page may be changed meanwhile.

    Pages in `instead` are not as on the device. Once a window could not be read, pages are
    read one by one: where a device fails it is slow.
    """

    __slots__ = ("_geometry", "_instead", "_most", "_recent")

    def __init__(
        self,
        geometry: Geometry,
        instead: Mapping[PageIndex, bytes] = _NO_PAGES,
        *,
        window_bytes: int = LARGEST_WINDOW_BYTES,
    ) -> None:
        self._geometry = geometry
        self._instead = instead
        self._most = max(1, window_bytes // geometry.page_size)
        self._recent: list[_Window] = []

    async def fetch(self, page: PageIndex) -> bytes:
        """Return the 4096 bytes of a page of the region.

        Raises:
            DeviceError: The device failed.
        """
        if page in self._instead:
            return self._instead[page]
        for first, end, data in self._recent:
            if first <= page < end:
                at = (page - first) * self._geometry.page_size
                return data[at : at + PAGE_SIZE]
        return await self._read_ahead(page)

    async def _read_ahead(self, page: PageIndex) -> bytes:
        """Read a window that has the page: a larger one where pages are near."""
        before = _NO_WINDOW
        for window in self._recent:
            if window.first - _NEAR <= page < window.end + _NEAR:
                before = window
        count = min(2 * (before.end - before.first), self._most)
        if count > 1:
            try:
                data = await self._read(page, count, before)
            except DeviceError:
                self._most = 1
            else:
                at = page % count * self._geometry.page_size
                return data[at : at + PAGE_SIZE]
        return await self._read(page, 1, before)

    async def _read(self, page: PageIndex, count: int, before: _Window) -> bytes:
        """Read the window of `count` pages that has the page; the window replaces another one."""
        geometry = self._geometry
        first = PageIndex(page - page % count)
        end = min(first + count, geometry.md_len)
        length = PAGE_SIZE if count == 1 else (end - first) * geometry.page_size
        data = await Read(geometry.page_offset(first), length)
        others = [window for window in self._recent if window is not before]
        self._recent = [_Window(first, end, data), *others[: _KEPT_WINDOWS - 1]]
        return data
