"""Reading a region that cannot be read everywhere: the device is cut short, or fails in places."""

from dataclasses import dataclass, field

from blobstore.errors import DeviceError
from blobstore.format.geometry import Geometry
from blobstore.format.page import PAGE_SIZE
from blobstore.metadata.store_state import DeviceTraits
from blobstore.operations import Read, ReadInto
from blobstore.units import PageIndex


@dataclass(slots=True)
class TolerantReader:
    """Reads metadata; what cannot be read is zero, and its pages are kept in `unreadable`."""

    geometry: Geometry
    traits: DeviceTraits
    unreadable: set[int] = field(default_factory=set)

    async def read_region(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, page by page where it cannot be done at once."""
        end = offset + len(buffer)
        if end <= self.traits.size_bytes:
            try:
                await ReadInto(offset, [buffer])
            except DeviceError:
                pass
            else:
                return
        step = self.geometry.page_size
        for at in range(0, len(buffer), step):
            await self._read_page(offset + at, buffer[at : at + step])

    async def _read_page(self, offset: int, view: memoryview) -> None:
        """Read the structure at the start of a page's slot; what follows it means nothing."""
        structure = view[:PAGE_SIZE]
        try:
            if offset + PAGE_SIZE > self.traits.size_bytes:
                raise DeviceError(f"{offset}: beyond the device's end")
            await ReadInto(offset, [structure])
        except DeviceError:
            structure[:] = bytes(PAGE_SIZE)
            start = self.geometry.page_offset(PageIndex(0))
            self.unreadable.add((offset - start) // self.geometry.page_size)

    async def fetch(self, page: PageIndex) -> bytes | None:
        """Return a metadata page that lies in the region, or None."""
        offset = self.geometry.page_offset(page)
        if page in self.unreadable or offset + PAGE_SIZE > self.traits.size_bytes:
            return None
        try:
            return await Read(offset, PAGE_SIZE)
        except DeviceError:
            self.unreadable.add(page)
            return None
