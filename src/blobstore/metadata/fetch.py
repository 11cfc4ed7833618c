"""Fetching metadata pages from the device."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from blobstore.format.geometry import Geometry
from blobstore.format.page import PAGE_SIZE
from blobstore.operations import Read
from blobstore.units import PageIndex

Fetch: TypeAlias = Callable[[PageIndex], Awaitable[bytes]]
"""Gives the 4096 bytes of a metadata page that lies in the region."""


def fetch_from_device(
    geometry: Geometry, instead: Mapping[PageIndex, bytes] | None = None
) -> Fetch:
    """Return a `Fetch` that asks the device for each page, but for those in `instead`."""
    known = instead or {}

    async def fetch(page: PageIndex) -> bytes:
        if page in known:
            return known[page]
        return await Read(geometry.page_offset(page), PAGE_SIZE)

    return fetch
