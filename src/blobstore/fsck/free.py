"""Metadata pages and clusters without an owner, which a repair may use."""

import errno
from typing import Final

from bitarray import bitarray

from blobstore.errors import NoSpaceError
from blobstore.units import PageIndex

_FIRST_CHAIN_PAGE: Final = 1  # page 0 can hold a root only


class FreePages:
    """Metadata pages that are free, lowest first."""

    def __init__(self, taken: bitarray) -> None:
        self.taken = taken

    def take(self, count: int) -> list[PageIndex]:
        """Claim `count` pages.

        Raises:
            NoSpaceError: There are fewer free pages (ENOMEM); none was claimed.
        """
        found: list[PageIndex] = []
        for page in self.taken.search(False, _FIRST_CHAIN_PAGE):
            if len(found) == count:
                break
            found.append(PageIndex(page))
        if len(found) < count:
            message = f"metadata pages: {count} needed, {len(found)} free"
            raise NoSpaceError(message, errno=errno.ENOMEM)
        self.taken[found] = True
        return found


class FreeClusters:
    """Clusters that no blob owns or may have owned, lowest first."""

    def __init__(self, taken: bitarray) -> None:
        self.taken = taken
        self._from = 0

    def take(self) -> int | None:
        """Claim a cluster, or return None when there is none; none is ever given back."""
        cluster = self.taken.find(False, self._from)
        if cluster < 0:
            self._from = len(self.taken)
            return None
        self._from = cluster + 1
        self.taken[cluster] = True
        return cluster
