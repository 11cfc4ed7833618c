"""Forking: a child's copy of an open device is closed in the child.

The copy of a descriptor would write beside the parent, and keep the file, the lock or the
connection in use. No fork happens while a file is opened and not yet known here, nor
while a device is half closed.
"""

import os
import threading
import weakref
from typing import Final

from blobstore.device.base import Device

open_devices: Final[weakref.WeakSet[Device]] = weakref.WeakSet()
"""What the child closes; `close` must know that it is in a child, if that is another thing."""
fork_lock: Final = threading.RLock()


def _close_in_child() -> None:
    try:
        for device in list(open_devices):
            device.close()
    finally:
        fork_lock.release()


os.register_at_fork(
    before=fork_lock.acquire,
    after_in_parent=fork_lock.release,
    after_in_child=_close_in_child,
)
