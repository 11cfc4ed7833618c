"""Where the process that serves a store's attached blobs is found.

Each store has a directory of its own in the runtime directory: the socket of the process, and the
mounted files. The name is made of the store's address, so a second `attach` of the same store
finds the process; the kernel keeps the name with each device, so `detach` finds it as well.

Empty directories are removed, up to that of the program. An `attach` locks the directory of its
store from before it looks for a process until there is one. Whoever would remove the directory
takes the same lock, and leaves the directory to an `attach` that has the lock. The directory of
the program has no lock: removal fails if it holds anything, and an `attach` that finds it gone
makes it again.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from blobstore.errors import AccessError, BusyError, NotFoundError

_PROGRAM: Final = "blobstore"
_NAME_LENGTH: Final = 16
_TRIES_MAX: Final = 1000
"""How often directories may be removed while an `attach` makes them, before it gives up."""


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one store's process."""

    directory: str

    @classmethod
    def of_store(cls, address: str) -> "Place":
        """Return the place of a store, by its path or address."""
        real = os.path.realpath(address) if os.path.exists(address) else address
        name = hashlib.sha256(os.fsencode(real)).hexdigest()[:_NAME_LENGTH]
        return cls(os.path.join(_runtime_directory(), _PROGRAM, name))

    @classmethod
    def of_device(cls, owner: str, device: str) -> "Place":
        """Return the place that a device names as its owner.

        Raises:
            NotFoundError: The device was not attached by this program.
        """
        place = cls(owner)
        if os.path.basename(os.path.dirname(owner)) != _PROGRAM or not os.path.isabs(owner):
            raise NotFoundError(f"{device}: was not attached by {_PROGRAM}")
        return place

    @property
    def socket(self) -> str:
        """The path of the socket at which the process is asked."""
        return os.path.join(self.directory, "control")

    @property
    def files(self) -> str:
        """The directory in which the process mounts the attached blobs."""
        return os.path.join(self.directory, "files")

    def make(self) -> None:
        """Make the directories, for this user alone; unmount what a killed process has left."""
        os.makedirs(os.path.dirname(self.directory), mode=0o700, exist_ok=True)
        for path in (self.directory, self.files):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        try:
            os.stat(self.files)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            subprocess.run(["umount", "-l", self.files], check=False)

    def remove(self) -> None:
        """Remove the directories, if nothing is in them and no `attach` is about to use them."""
        with self._locked_if_free() as is_locked:
            if is_locked:
                self._remove_empty()

    def clear_if_dead(self) -> None:
        """Remove what a killed process has left; leave the place of one that listens."""
        with self._locked_if_free() as is_locked:
            if is_locked and self._is_dead():
                for path in (self.socket, f"{self.socket}.lock"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                self._remove_empty()

    def _is_dead(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self.socket)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def _remove_empty(self) -> None:
        """Remove the directories that are empty; the caller has the lock."""
        for path in (self.files, self.directory, os.path.dirname(self.directory)):
            with contextlib.suppress(OSError):
                os.rmdir(path)

    @contextlib.contextmanager
    def _locked_if_free(self) -> Iterator[bool]:
        """Lock the directory during the `with`; false where an `attach` has it, or it is gone."""
        try:
            lock = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield False
            return
        try:
            yield _lock_now(lock)
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have the `with` run in one process at a time: two would both start a server.

        If the `with` fails, the directories are removed if nothing is in them: a process that it
        started could not do that.

        Raises:
            AccessError: This user may not have directories there.
            OSError: The directories cannot be made.
        """
        lock = self._locked()
        try:
            yield
        except BaseException:
            self._remove_empty()
            raise
        finally:
            os.close(lock)

    def _locked(self) -> int:
        """Lock the directory; whoever had it locked may have removed it meanwhile."""
        for tries_left in reversed(range(_TRIES_MAX)):
            try:
                self.make()
                lock = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
            except PermissionError as error:
                raise AccessError(
                    f"{self.directory}: {error.strerror}; attach needs root", errno=error.errno
                ) from error
            except (FileNotFoundError, FileExistsError):  # one that was there was removed
                if not tries_left:
                    raise
                continue
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.directory), os.fstat(lock)):
                    return lock
            os.close(lock)
        raise BusyError("other processes remove it again and again").at(store=self.directory)


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def all_places() -> list[Place]:
    """Return the places of all stores that are attached, or were by a killed process."""
    try:
        names = os.listdir(os.path.join(_runtime_directory(), _PROGRAM))
    except FileNotFoundError:
        return []
    return [Place(os.path.join(_runtime_directory(), _PROGRAM, name)) for name in names]


def _runtime_directory() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or "/run"
