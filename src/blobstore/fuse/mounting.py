"""A mounted directory of blobs, from the mount to its end.

libfuse runs in a thread of its own, so that Python's signal handlers run in the main thread.
The main thread waits for a pipe, and never for a lock: a handler that raises can leave a
`threading.Event` locked for ever, and a signal that comes just before a wait does not end it.
The end comes from outside (`umount`), or from here: `unmount` looks up a name, and the callback
that the kernel makes for it tells libfuse to stop. libfuse then ends the callbacks under way,
unmounts the directory even if it is in use, and closes the connection; files that are still open
answer ENOTCONN.
"""

import contextlib
import errno
import os
import select
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from blobstore.errors import DeviceError, NotDirectoryError, PathNotFoundError
from blobstore.fuse.blob_files import BlobFiles
from blobstore.fuse.libfuse import THREADS, Fuse

_DEVICE: Final = "/dev/fuse"
_END_TIMEOUT_S: Final = 30
_PATIENCE_S: Final = 1
_LOOK_S: Final = 0.01


class Mounted:
    """Blobs as files in a directory. Leaving its `with` unmounts the directory.

    The caller closes the store afterwards.
    """

    def __init__(self, files: BlobFiles, directory: str, options: Mapping[str, str | bool]) -> None:
        """Mount, and return when the files are there.

        `options` are libfuse's, as for `fusermount3 -o`.

        Raises:
            PathNotFoundError, NotDirectoryError: There is no such directory.
            DeviceError: The kernel has no FUSE, or does not let this process mount, or the
                directory is the mount of a process that was killed.
        """
        self._files = files
        self._directory = _checked(directory)
        self._failure: BaseException | None = None
        self._ended, self._ending = os.pipe()
        self._end = select.poll()
        self._end.register(self._ended)
        given = {**options, "foreground": True, "subtype": "blobstore", "use_ino": True, **THREADS}
        threading.Thread(target=self._run, args=(given,), name="fuse", daemon=True).start()
        while not files.is_mounted:
            if self._has_ended(_LOOK_S):
                raise DeviceError(
                    f"{directory}: cannot be mounted; libfuse has said why"
                ) from self._failure

    def _run(self, options: Mapping[str, str | bool]) -> None:
        try:
            Fuse(self._files, self._directory, **options)
        except BaseException as error:
            self._failure = error
        finally:
            os.close(self._ending)

    def _has_ended(self, wait_s: float) -> bool:
        return bool(self._end.poll(wait_s * 1000))

    def wait(self) -> None:
        """Wait until the directory was unmounted.

        Raises:
            DeviceError: libfuse has lost the kernel.
        """
        while not self._has_ended(_PATIENCE_S):
            pass
        if self._failure is not None:
            raise DeviceError(f"{self._directory}: libfuse failed") from self._failure

    def unmount(self) -> None:
        """End the callbacks under way, and unmount. Calling it again does nothing."""
        self._files.end()
        with contextlib.suppress(OSError):
            os.stat(os.path.join(self._directory, f".end-{os.getpid()}"))
        self._has_ended(_END_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._has_ended(0):
            self.unmount()
        os.close(self._ended)


def option_text(text: str) -> str:
    """Return a text as an option's value, where a comma would end it."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _checked(directory: str) -> str:
    try:
        os.stat(directory)
    except FileNotFoundError as error:
        raise PathNotFoundError("no such directory").at(store=directory) from error
    except OSError as error:
        hint = f": a mount whose process has ended; `fusermount3 -u {directory}` removes it"
        why = hint if error.errno == errno.ENOTCONN else ""
        raise DeviceError(f"{directory}: {error.strerror}{why}", errno=error.errno) from error
    if not os.path.isdir(directory):
        raise NotDirectoryError("expected a directory to mount at").at(store=directory)
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise DeviceError(f"{_DEVICE}: {error.strerror}", errno=error.errno) from error
    return os.path.abspath(directory)
