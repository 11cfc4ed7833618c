"""`attach` and `detach`, as a program calls them.

Only what starts a process imports what serves: libfuse takes 0.1 s to find and load.
"""

import contextlib
import errno
import os
import select
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from blobstore.errors import BlobstoreError, DeviceError
from blobstore.fuse import loop_device
from blobstore.fuse.attach_place import Place, all_places
from blobstore.fuse.attach_protocol import AttachedDevice, Wanted, ask, decode_answer
from blobstore.fuse.background import start_in_background

if TYPE_CHECKING:
    from blobstore.fuse.attach_process import OpenStore
    from blobstore.fuse.attach_server import FindBlob

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
    from blobstore.fuse.attach_process import AttachProcess

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
    owner = loop_device.owner_of(path)
    if owner is None:
        loop_device.detach_file(path, flush=False)
        for place in all_places():
            place.clear_if_dead()
        raise DeviceError(
            f"{device}: detached; but the process that served it was killed: what was not "
            "flushed is lost, and the store recovers when it is opened"
        )
    answer = ask(Place.of_device(owner, path).socket, {"detach": path})
    if answer["is_ending"]:
        _wait_for_end(answer["pid"])


def _wait_for_end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            select.select([process], [], [])
        finally:
            os.close(process)
