"""The callbacks of a FUSE file system: one directory, and a file for each blob.

libfuse calls them from threads of its own, several at once; the store is made for that. The
handle of an open file is the blob's id. An error of the store is an `OSError`: its errno is
the answer to the program that uses the file.

**Sizes.** A file is as long as its blob. Writes end there, as on a disk. `truncate` to a larger
size resizes the blob. A smaller size, and so `O_TRUNC`, is refused: programs that empty a file
expect what they skip afterwards to read as zeroes, and a clone would show its parent there.

**Holes.** Whoever punches a hole may rely on zeroes. A hole of a clone would show the parent, so
a clone refuses it with EOPNOTSUPP; all programs, and the kernel's loop device, then write zeroes.
"""

import errno
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.api.disk_view import clear
from blobstore.api.volumes import VolumeStore
from blobstore.fuse.libfuse import leave_loop
from blobstore.units import KIB, MIB, BlobId

KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10
"""Modes of `fallocate`, as linux/falloc.h has them."""

_XATTR_CREATE: Final = 1
_XATTR_REPLACE: Final = 2
_USER: Final = "user."
_SECTOR: Final = 512  # the unit of st_blocks
_TRANSFER_MIN: Final = 4 * KIB
_TRANSFER_MAX: Final = MIB
_ROOT_INODE: Final = 1


class BlobFiles:
    """A directory of blobs. `files` are their ids by file name.

    mfusepy looks the callbacks up by name. What is not here is refused by libfuse as not
    implemented. `on_release` is called when a file was closed as often as it was opened.
    """

    use_ns = True  # the unit in which mfusepy is told times

    def __init__(
        self,
        store: Blobstore | VolumeStore,
        files: dict[str, BlobId],
        *,
        writable: bool,
        on_release: Callable[[BlobId], None] = lambda _blob_id: None,
    ) -> None:
        self.files = files
        self.is_mounted = False
        self._store = store
        self._writable = writable
        self._on_release = on_release
        self._blobs: dict[BlobId, Blob] = {}
        self._open_count: Counter[BlobId] = Counter()
        self._opening = threading.Lock()
        self._is_ending = False
        self._uid, self._gid = os.getuid(), os.getgid()
        self._began_ns = time.time_ns()
        self._written_ns: dict[BlobId, int] = {}

    # Files come and go

    def add(self, name: str, blob_id: BlobId) -> Blob:
        """Show a blob as a file, and return it, open.

        Raises:
            BlobstoreError: It cannot be opened.
        """
        blob = self._blob(blob_id)
        self.files[name] = blob_id
        return blob

    def remove(self, name: str) -> None:
        """Show a file no longer, and close its blob.

        Durability: as `Blob.close`.

        Raises:
            DeviceError: The blob's metadata could not be written.
        """
        with self._opening:
            blob = self._blobs.pop(self.files.pop(name))
        self._written_ns.pop(blob.id, None)
        blob.close()

    # The file system as a whole

    def init(self, _path: str) -> None:
        """Note that the kernel has answered: the directory can be used."""
        self.is_mounted = True

    def end(self) -> None:
        """Make the next look at a name end the file system."""
        self._is_ending = True

    def statfs(self, _path: str) -> dict[str, int]:
        """Describe the store; a block is a cluster, which is what can be freed."""
        info = self._store.info
        return {
            "f_bsize": info.cluster_size,
            "f_frsize": info.cluster_size,
            "f_blocks": info.data_clusters,
            "f_bfree": info.free_clusters,
            "f_bavail": info.free_clusters,
            "f_files": len(self.files),
            "f_namemax": 255,
        }

    # Names

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Describe the directory or a file."""
        if self._is_ending:
            leave_loop()
        if path == "/":
            mode, inode, size, allocated, links = stat.S_IFDIR | 0o555, _ROOT_INODE, 0, 0, 2
            changed = self._began_ns
        else:
            blob = self._named(path)
            info = blob.info
            is_writable = self._writable and not info.data_read_only
            mode, inode, links = stat.S_IFREG | (0o644 if is_writable else 0o444), blob.id, 1
            size, allocated = info.size, info.allocated_clusters * self._store.cluster_size
            changed = self._written_ns.get(blob.id, self._began_ns)
        return {
            "st_mode": mode,
            "st_ino": inode,
            "st_nlink": links,
            "st_uid": self._uid,
            "st_gid": self._gid,
            "st_size": size,
            "st_blocks": allocated // _SECTOR,
            "st_blksize": max(_TRANSFER_MIN, min(self._store.cluster_size, _TRANSFER_MAX)),
            "st_atime": changed,
            "st_mtime": changed,
            "st_ctime": changed,
        }

    def readdir(self, _path: str, _handle: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """List the directory: names with their kinds and inodes."""
        above = {"st_mode": stat.S_IFDIR, "st_ino": _ROOT_INODE}
        yield from ((name, above, 0) for name in (".", ".."))
        for name, blob_id in list(self.files.items()):
            yield name, {"st_mode": stat.S_IFREG, "st_ino": blob_id}, 0

    def open(self, path: str, flags: int) -> int:
        """Return the handle of a file."""
        blob = self._named(path)
        if flags & os.O_ACCMODE != os.O_RDONLY and blob.data_read_only:
            raise _os_error(errno.EACCES)
        if flags & os.O_TRUNC:
            raise _os_error(errno.EPERM)
        with self._opening:
            self._open_count[blob.id] += 1
        return blob.id

    def release(self, _path: str, handle: int) -> int:
        """Note that an open file was closed by all that had it."""
        blob_id = BlobId(handle)
        with self._opening:
            self._open_count[blob_id] -= 1
            is_last = not self._open_count[blob_id]
            if is_last:
                del self._open_count[blob_id]
        if is_last:
            self._on_release(blob_id)
        return 0

    def _refuse(self, *_arguments: object) -> int:
        """Refuse to make, rename and delete files: the program's commands do that to blobs."""
        raise PermissionError(errno.EPERM, "blobs are made and deleted by commands")

    create = mknod = mkdir = unlink = rmdir = rename = link = symlink = _refuse

    def _named(self, path: str) -> Blob:
        blob_id = self.files.get(path[1:])
        if blob_id is None:
            raise _os_error(errno.ENOENT)
        return self._blob(blob_id)

    def _blob(self, blob_id: int) -> Blob:
        """Return an open blob, which stays open: the same file is opened again and again."""
        with self._opening:
            found = self._blobs.get(BlobId(blob_id))
            if found is None:
                found = self._blobs[BlobId(blob_id)] = self._store.open_blob(blob_id)
            return found

    # Content

    def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
        """Return what is there; less than `size` bytes at the end of the file."""
        blob = self._blobs[BlobId(handle)]
        return blob.read(max(0, min(size, blob.size - offset)), offset)

    def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
        """Write as much as fits the file; return how much that was."""
        blob = self._blobs[BlobId(handle)]
        room = blob.size - offset
        if room <= 0:
            raise _os_error(errno.ENOSPC)
        written = blob.write(data if len(data) <= room else data[:room], offset)
        self._note_change(blob)
        return written

    def truncate(self, path: str, length: int, handle: int | None = None) -> int:
        """Give a blob a larger size, rounded up to whole clusters."""
        blob = self._named(path) if handle is None else self._blobs[BlobId(handle)]
        if length < blob.size:
            raise _os_error(errno.EPERM)
        end = blob.size
        blob.resize(length)
        clear(blob, end, blob.size - end)  # a clone would show its parent there
        return 0

    def fallocate(self, _path: str, mode: int, offset: int, length: int, handle: int) -> int:
        """Unmap, or write zeroes; the size stays."""
        blob = self._blobs[BlobId(handle)]
        info, inside = blob.info, max(0, min(length, blob.size - offset))
        change: Callable[[Blob, int, int], None]
        if mode == PUNCH_HOLE | KEEP_SIZE:
            if info.parent is not None or info.external_snapshot is not None:
                raise _os_error(errno.EOPNOTSUPP)
            change = clear  # zeroes, also if a snapshot makes it a clone just now
        elif mode & ~KEEP_SIZE == ZERO_RANGE and (inside == length or mode & KEEP_SIZE):
            change = Blob.write_zeroes
        else:
            raise _os_error(errno.EOPNOTSUPP)
        if inside:
            change(blob, offset, inside)
            self._note_change(blob)
        return 0

    def lseek(self, offset: int, whence: int, handle: int) -> int:
        """Find data or a hole; the kernel asks for nothing else."""
        blob = self._blobs[BlobId(handle)]
        if not 0 <= offset < blob.size:
            raise _os_error(errno.ENXIO)
        if whence == os.SEEK_HOLE:
            return blob.next_hole(offset)
        found = blob.next_data(offset)
        if found is None:
            raise _os_error(errno.ENXIO)
        return found

    def fsync(self, _path: str, _data_only: int, handle: int) -> int:
        """Make all that was written to the file durable."""
        self._blobs[BlobId(handle)].flush()
        return 0

    def utimens(self, _path: str, _times: object) -> int:
        """Accept times, which a blob does not have: programs set them on what they have copied."""
        return 0

    def _note_change(self, blob: Blob) -> None:
        self._written_ns[blob.id] = time.time_ns()

    # Attributes

    def listxattr(self, path: str) -> list[str]:
        """List a blob's attributes."""
        return [] if path == "/" else [f"{_USER}{name}" for name in self._named(path).xattrs]

    def getxattr(self, path: str, name: str) -> bytes:
        """Return an attribute's value."""
        if path == "/":
            raise _os_error(errno.ENODATA)
        try:
            return self._named(path).xattrs[_attribute(name)]
        except KeyError:
            raise _os_error(errno.ENODATA) from None

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> int:
        """Set an attribute."""
        if path == "/":
            raise _os_error(errno.EPERM)
        xattrs, attribute = self._named(path).xattrs, _attribute(name)
        if flags & _XATTR_CREATE and attribute in xattrs:
            raise _os_error(errno.EEXIST)
        if flags & _XATTR_REPLACE and attribute not in xattrs:
            raise _os_error(errno.ENODATA)
        xattrs[attribute] = value
        return 0

    def removexattr(self, path: str, name: str) -> int:
        """Remove an attribute."""
        if path == "/":
            raise _os_error(errno.ENODATA)
        try:
            del self._named(path).xattrs[_attribute(name)]
        except KeyError:
            raise _os_error(errno.ENODATA) from None
        return 0


def _attribute(name: str) -> str:
    """Return the blob's name of an attribute.

    Raises:
        OSError: It is in a namespace that blobs do not have.
    """
    if not name.startswith(_USER):
        raise _os_error(errno.EOPNOTSUPP)
    return name.removeprefix(_USER)


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
