"""Stores that are open because something uses them, one for each device and process.

File systems come and go, in any thread, and several may name one store. A device can be locked
once for writing, so they share one open store. The store is opened for its first user and
closed after its last one: between two operations no other process is kept out.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from blobstore.api.volumes import VolumeStore
from blobstore.errors import BusyError

Address: TypeAlias = str

_guard: Final = threading.RLock()
_open: "Final[dict[tuple[int, Address], _Use]]" = {}
"""By process as well: after a fork the child must not use what its parent has open."""


@dataclass(slots=True)
class _Use:
    """An open store, and how many use it."""

    store: VolumeStore
    count: int = 0


@contextmanager
def use_store(source: "Address | VolumeStore", *, writable: bool) -> Iterator[VolumeStore]:
    """Have a store open for as long as the body runs; one that is given open stays open.

    Raises:
        BusyError: It is to be written to, and is open here for reading; or as
            `VolumeStore.open`.
        ReadOnlyError: A store that was given open is read-only, and refuses a change.
    """
    if isinstance(source, VolumeStore):
        yield source
        return
    key = (os.getpid(), os.path.realpath(source) if os.path.exists(source) else source)
    with ExitStack() as stack:
        with _guard:
            use = _open.get(key)
            if use is None:
                use = _open[key] = _Use(VolumeStore.open(source, read_only=not writable))
            elif writable and use.store.read_only:
                raise BusyError(
                    f"open for reading by {use.count} users in this process, "
                    "expected none or writable=True"
                ).at(store=source)
            use.count += 1
            stack.callback(_leave, key, use)
        yield use.store


def _leave(key: tuple[int, Address], use: _Use) -> None:
    with _guard:
        use.count -= 1
        if not use.count:
            del _open[key]
            use.store.close()
