"""`attach` and `detach`, as a program calls them.

Only what starts a process imports what serves: libfuse takes 0.1 s to find and load.
"""

import contextlib
import errno
import os
import select
import stat
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from blobstore.attach import kernel_nbd, loop_device
from blobstore.attach.attach_place import Place, all_places
from blobstore.attach.attach_protocol import AttachedDevice, Wanted, ask, decode_answer
from blobstore.attach.background import start_in_background
from blobstore.errors import BlobstoreError, DeviceError, NotFoundError, UnsupportedError

if TYPE_CHECKING:
    from blobstore.attach.attach_process import OpenStore
    from blobstore.attach.attach_server import FindBlob

_PAUSE_S: Final = 0.05


def attach(
    address: str, wanted: Wanted, open_store: "OpenStore", find: "FindBlob"
) -> AttachedDevice:
    """Make a blob of the store at an address a block device.

    The process that has the store attached is asked. If there is none, it is started: it opens
    the store by `open_store`, and finds the blob by `find`.

    Raises:
        BlobstoreError: What the process could not do; `errno` says the kind.
    """
    place = Place.of_store(address)
    with place.alone():
        while True:
            try:
                return AttachedDevice(**ask(place.socket, asdict(wanted)))
            except (ConnectionRefusedError, FileNotFoundError):
                return _start(place, wanted, open_store, find)
            except BlobstoreError as error:
                if error.errno != errno.ESHUTDOWN:
                    raise
            time.sleep(_PAUSE_S)  # the process unloads the store, and is gone then


def _start(
    place: Place, wanted: Wanted, open_store: "OpenStore", find: "FindBlob"
) -> AttachedDevice:
    from blobstore.attach.attach_process import AttachProcess

    process = AttachProcess(place, open_store, find)
    reported = start_in_background(lambda report: process.run(wanted, report))
    return AttachedDevice(**decode_answer(reported))


def detach(device: str) -> None:
    """Flush and detach a block device; if it is a store's last one, wait until that is unloaded.

    Durability: everything that was written to the device is durable on return.

    Raises:
        NotFoundError: It is not attached, or not by this program.
        BusyError: It is mounted, is part of something else, or another program keeps it open.
        DeviceError: It could not be flushed, or the store not be unloaded; or its process was
            killed: then it is detached, but what was not flushed is lost.
    """
    path = os.path.realpath(device)
    owner_of, detach_orphan = _driver_of(path)
    try:
        owner = owner_of(path)
    except NotFoundError:
        _clear_dead_places()
        raise
    if owner is None:
        detach_orphan(path)
        _clear_dead_places()
        raise DeviceError(
            f"{device}: detached; but the process that served it was killed: what was not "
            "flushed is lost, and the store recovers when it is opened"
        )
    answer = ask(Place.of_device(owner, path).socket, {"detach": path})
    if answer["is_ending"]:
        _wait_for_end(answer["pid"])


def _clear_dead_places() -> None:
    """Remove what killed processes have left."""
    for place in all_places():
        place.clear_if_dead()


def _driver_of(path: str) -> tuple[Callable[[str], str | None], Callable[[str], None]]:
    """Return what finds the process of a device, and what detaches a killed process's device.

    Raises:
        NotFoundError: There is no such device.
        UnsupportedError: It is not one that `attach` makes.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", errno=error.errno) from error
    if stat.S_ISBLK(found.st_mode):
        for driver in (loop_device, kernel_nbd):
            if os.major(found.st_rdev) == driver.MAJOR:
                return driver.owner_of, driver.detach_orphan
    raise UnsupportedError(f"{path}: is no loop device and no NBD device")


def _wait_for_end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            select.select([process], [], [])
        finally:
            os.close(process)
