"""How many pages a blob's attributes take, while they are set one after the other (FORMAT 4).

Attributes are packed in order, each whole: the next page begins where one does not fit. To lay
all of them out after each change would take time by the square of their number. So the layout is
kept, and a change touches one page of it:

- A new attribute goes to the end, which is exact.
- One that is removed or shrinks leaves a gap. What follows could move up, so the layout
  is an upper bound from then on: packing in order never takes more pages for less.
- One that outgrows its page is moved, with what follows it there, to pages of their own.

What this wastes is counted. When it is more than an eighth, or the pages are few, all is laid out
again; so the bound is close, and a change costs the same on average, however many there are.
"""

from collections.abc import Iterable
from typing import Final

from blobstore.format.chain import ChainSize
from blobstore.format.descriptors import FLAGS_SIZE, Xattr
from blobstore.format.page import BODY_SIZE

_EXACT_PAGES: Final = 4
"""A layout of so few pages is always exact."""
_WASTED_SHARE: Final = 8


class _Page:
    """The attributes of one page, and how many bytes are left in it."""

    __slots__ = ("names", "room")

    def __init__(self, room: int) -> None:
        self.room = room
        self.names: list[str] = []


class AttributePages:
    """The pages that a blob's attributes take, after its flags and before all that follows."""

    __slots__ = ("_page_of", "_pages", "_root_room", "_sizes", "_wasted")

    def __init__(self, xattrs: Iterable[Xattr], *, root_capacity: int) -> None:
        self._root_room = root_capacity - FLAGS_SIZE
        self._sizes = {xattr.name: xattr.encoded_size for xattr in xattrs}
        self._lay_out()

    @property
    def size(self) -> ChainSize:
        """The pages begun so far, and the room in the last: never too few."""
        return ChainSize(len(self._pages), self._pages[-1].room)

    def put(self, xattr: Xattr) -> None:
        """Add an attribute at the end, or replace the value of one that is there."""
        name, size = xattr.name, xattr.encoded_size
        before = self._sizes.get(name)
        self._sizes[name] = size
        if before is None:
            self._append([name], self._pages)
            return
        page = self._page_of[name]
        page.room -= size - before
        self._wasted += max(0, before - size)
        if page.room < 0:
            self._split(page)
        self._lay_out_if_loose()

    def remove(self, name: str) -> None:
        """Remove an attribute."""
        size, page = self._sizes.pop(name), self._page_of.pop(name)
        page.room += size
        page.names.remove(name)
        self._wasted += size
        self._lay_out_if_loose()

    def _lay_out_if_loose(self) -> None:
        is_small = len(self._pages) <= _EXACT_PAGES
        if self._wasted and (
            is_small or self._wasted * _WASTED_SHARE > len(self._pages) * BODY_SIZE
        ):
            self._lay_out()

    def _lay_out(self) -> None:
        self._wasted = 0
        self._page_of: dict[str, _Page] = {}
        self._pages = [_Page(self._root_room)]
        self._append(self._sizes, self._pages)

    def _split(self, page: _Page) -> None:
        """Give what does not fit into this page one or two pages of its own."""
        names, page.names = page.names, []
        page.room += sum(self._sizes[name] for name in names)
        pages = [page]
        self._append(names, pages)
        at = self._pages.index(page)
        self._pages[at : at + 1] = pages
        self._wasted += BODY_SIZE * (len(pages) - 1)

    def _append(self, names: Iterable[str], pages: list[_Page]) -> None:
        """Pack attributes in order, from the room in the last of these pages on."""
        page = pages[-1]
        for name in names:
            size = self._sizes[name]
            if size > page.room:
                page = _Page(BODY_SIZE)
                pages.append(page)
            page.room -= size
            page.names.append(name)
            self._page_of[name] = page
