"""The volumes of a store as a file system of fsspec.

A store has no directories. As in object stores, a slash in a name makes one: while a volume
`logs/monday` exists, there is a directory `logs`. In an address such as
``blobstore://images/disk.img/logs/monday`` the store is the first part that is no directory
of the host.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final

from fsspec.spec import AbstractFileSystem

from blobstore.api.volumes import Volume, VolumeStore
from blobstore.errors import (
    BlobstoreError,
    IsDirectoryError,
    PathNotFoundError,
    ReadOnlyError,
    UnsupportedError,
)
from blobstore.fsspec.lengths import LENGTH, encode_length, length_in, length_of
from blobstore.fsspec.store_uses import Address, use_store
from blobstore.fsspec.upload import Upload, check_replaceable
from blobstore.fsspec.volume_file import VolumeReader, VolumeWriter
from blobstore.store.describe import BlobInfo
from blobstore.units import MIB, BlobId
from blobstore.volumes.identity import check_name

_SCHEME: Final = "blobstore://"
_COPIED_AT_ONCE: Final = 4 * MIB


class BlobstoreFileSystem(AbstractFileSystem):
    """Reads and writes the volumes of one store.

    `store` is what `VolumeStore.open` takes as text, or an open `VolumeStore`, which stays
    open. A store that is given as text is open while an operation runs or a file is open:
    read-only, unless something is written or `writable` is set.
    """

    protocol = "blobstore"
    root_marker = ""
    cachable = False  # an instance holds nothing, and a store that was given open may be closed

    def __init__(
        self, store: "Address | VolumeStore", *, writable: bool = False, **options: Any
    ) -> None:
        super().__init__(store, **options)
        self.store = store if isinstance(store, VolumeStore) else os.fspath(store)
        self.writable = writable

    # Addresses

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        name = os.fspath(path)
        if name.startswith(_SCHEME):
            _store, name = _split(name.removeprefix(_SCHEME))
        return name.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        if not path.startswith(_SCHEME):
            return {}
        store, _name = _split(path.removeprefix(_SCHEME))
        return {"store": store}

    def unstrip_protocol(self, name: str) -> str:
        """Return the whole address of a path, with its store."""
        store = self.store if isinstance(self.store, str) else self.store.device_name
        return f"{_SCHEME}{store}/{self._strip_protocol(name)}"

    # What there is

    def use_store(self, *, writable: bool = False) -> AbstractContextManager[VolumeStore]:
        """Have the store open for as long as the body of a `with` runs.

        Raises:
            BlobstoreError: As `VolumeStore.open`.
        """
        return use_store(self.store, writable=writable or self.writable)

    def open_volume(self, store: VolumeStore, path: str) -> Volume:
        """Open the volume of a path.

        Raises:
            PathNotFoundError: There is none; it is a `FileNotFoundError`.
            IsDirectoryError: The path is one.
        """
        name = self._strip_protocol(path)
        if name not in store:
            raise _no_volume(store, name)
        return store.open_volume(name)

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Describe a volume or a directory.

        Raises:
            PathNotFoundError: There is none.
        """
        name = self._strip_protocol(path)
        with self.use_store() as store:
            if name in store:
                with store.open_volume(name) as volume:
                    return _described(store, volume.name, volume.info)
            if _is_directory(store, name):
                return _directory(name)
            raise _no_volume(store, name)

    def exists(self, path: str, **options: Any) -> bool:
        """Say whether there is a volume or a directory of this name; other errors are raised."""
        try:
            self.info(path, **options)
        except FileNotFoundError:
            return False
        return True

    def ls(self, path: str = "", detail: bool = True, **_options: Any) -> list[Any]:
        """List a directory, or one volume.

        Raises:
            PathNotFoundError: There is none.
        """
        name = self._strip_protocol(path)
        with self.use_store() as store:
            found = _listed(store, name)
            if not found and name in store:
                with store.open_volume(name) as volume:
                    found = {name: _described(store, name, volume.info)}
            if not found and name:
                raise _no_volume(store, name)
        entries = [found[each] for each in sorted(found)]
        return entries if detail else [entry["name"] for entry in entries]

    # Content

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> VolumeReader | VolumeWriter:
        given = {"block_size": block_size, "cache_options": cache_options, **options}
        if mode == "rb":
            return VolumeReader(self, path, **given)
        if mode in ("wb", "xb"):
            return VolumeWriter(self, path, mode, autocommit=autocommit, **given)
        raise UnsupportedError(f"mode {mode!r}: expected 'rb', 'wb' or 'xb'")

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_options: Any
    ) -> bytes:
        """Return a volume's content, or a range of it; negative numbers count from the end.

        Raises:
            PathNotFoundError: There is no such volume.
        """
        with self.use_store() as store, self.open_volume(store, path) as volume:
            return _read(volume, store.cluster_size, start, end)

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **options: Any,
    ) -> list[Any]:
        """Return a range of each path; the store is opened once, and each volume once.

        Raises:
            BlobstoreError: As `cat_file`, if `on_error` is not ``return``.
        """
        with self.use_store() as store, ExitStack() as stack:
            for name in {self._strip_protocol(path) for path in paths}:
                if name in store:
                    stack.enter_context(store.open_volume(name))  # `cat_file` finds it open
            return list(super().cat_ranges(paths, starts, ends, max_gap, on_error, **options))

    # Changes

    def snapshot(self, path: str, name: str) -> None:
        """Make a snapshot of a volume, which is read under `name`, with the file's length.

        Durability: on return.

        Raises:
            PathNotFoundError: There is no such volume.
            BlobstoreError: As `Volume.snapshot`.
        """
        with self.use_store(writable=True) as store, self.open_volume(store, path) as volume:
            length = encode_length(length_of(volume, store.cluster_size))
            volume.snapshot(self._strip_protocol(name), xattrs={LENGTH: length}).close()

    def cp_file(self, path1: str, path2: str, **_options: Any) -> None:
        """Copy a volume within the store; holes stay holes.

        Durability: on return.

        Raises:
            PathNotFoundError: There is no such volume.
            NoSpaceError: The store is full.
        """
        with self.use_store(writable=True) as store:
            if self._strip_protocol(path1) not in store and self.isdir(path1):
                return
            with self.open_volume(store, path1) as volume:
                length = length_of(volume, store.cluster_size)
                upload = Upload(self.store, self._strip_protocol(path2))
                try:
                    upload.grow(length)
                    for start, end in _data_parts(volume):
                        upload.write(volume.read(end - start, start), start)
                except BaseException:
                    upload.discard()
                    raise
            upload.commit(length)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, **options: Any) -> None:
        """Rename a volume: nothing is copied, and it keeps its id and uuid. Else copy and delete.

        Durability: on return.

        Raises:
            PathNotFoundError: There is no such volume.
            ReadOnlyError: It is a snapshot or read-only, or the volume that it is to replace;
                nothing changed.
            InvalidArgumentError: No volume can have the new name; nothing changed.
        """
        if not isinstance(path1, str) or not isinstance(path2, str) or not self.isfile(path1):
            super().mv(path1, path2, recursive=recursive, **options)
            return
        old, new = self._strip_protocol(path1), self._strip_protocol(path2)
        if path2.endswith("/") or self.isdir(new):
            new = f"{new}/{old.rpartition('/')[2]}".strip("/")
        if old == new:
            return
        with self.use_store(writable=True) as store, store.open_volume(old) as volume:
            if volume.read_only:
                raise ReadOnlyError(f"volume {old!r}: a snapshot or read-only, keeps its name")
            check_name(new)
            if new in store:
                check_replaceable(store, new)
                store.delete_volume(new)
            volume.rename(new)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete volumes; a directory is gone with its last one.

        Durability: on return.

        Raises:
            PathNotFoundError: There is no such volume.
            IsDirectoryError: It is a directory, and `recursive` was not given.
            BusyError: A volume is open, or has several clones.
        """
        found = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        with self.use_store(writable=True) as store:
            names = [name for name in found if name in store]
            if not names:
                raise _no_volume(store, found[0])
            for name in reversed(names):
                store.delete_volume(name)

    def rm_file(self, path: str) -> None:
        """Delete the volume of exactly this name: a `*` in it is a `*`.

        Durability: on return.

        Raises:
            PathNotFoundError: There is no such volume.
            IsDirectoryError: It is a directory.
            BusyError: The volume is open, or has several clones.
        """
        name = self._strip_protocol(path)
        with self.use_store(writable=True) as store:
            if name not in store:
                raise _no_volume(store, name)
            store.delete_volume(name)


def _split(address: str) -> tuple[str, str]:
    """Return the store and the name in an address without its scheme."""
    parts = address.split("/")
    for count in range(1, len(parts) + 1):
        store = "/".join(parts[:count])
        if os.path.exists(store) and not os.path.isdir(store):
            return store, "/".join(parts[count:])
    store, _slash, name = address.rpartition("/")
    return (store, name) if store else (name, "")


def _no_volume(store: VolumeStore, name: str) -> BlobstoreError:
    if _is_directory(store, name):
        return IsDirectoryError(f"{name!r}: a directory").at(store=store.device_name)
    return PathNotFoundError(f"no volume {name!r}").at(store=store.device_name)


def _is_directory(store: VolumeStore, name: str) -> bool:
    return not name or any(each.startswith(f"{name}/") for each in _paths(store).values())


def _paths(store: VolumeStore) -> dict[BlobId, str]:
    """Return the names that are paths, by the volumes' ids.

    Names such as `/x` and `a//b`, which others may have given, lead into no directory.
    """
    return {each.id: each.name for each in store if all(each.name.split("/"))}


def _listed(store: VolumeStore, directory: str) -> dict[str, dict[str, Any]]:
    """Return what is in a directory, by path."""
    start = f"{directory}/" if directory else ""
    names = {blob_id: name for blob_id, name in _paths(store).items() if name.startswith(start)}
    found: dict[str, dict[str, Any]] = {}
    for info in store.list_blobs() if names else ():
        name = names.get(info.blob_id)
        if not name:
            continue
        first, slash, _rest = name.removeprefix(start).partition("/")
        if slash:
            found.setdefault(start + first, _directory(start + first))
        else:
            found[name] = _described(store, name, info)
    return found


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _described(store: VolumeStore, name: str, info: BlobInfo) -> dict[str, Any]:
    if info.error is not None:
        return {"name": name, "size": None, "type": "other", "error": info.error.message}
    value, cluster_size = info.xattrs.get(LENGTH), store.cluster_size
    return {
        "name": name,
        "size": length_in(value, size=info.size, cluster_size=cluster_size),
        "type": "file",
        "id": info.blob_id,
        "uuid": str(store.volume_info(info.blob_id).uuid),
        "volume_size": info.size,
        "allocated": info.allocated_clusters * cluster_size,
        "snapshot": info.snapshot,
        "read_only": info.read_only,
    }


def _read(volume: Volume, cluster_size: int, start: int | None, end: int | None) -> bytes:
    first, last, _step = slice(start, end).indices(length_of(volume, cluster_size))
    return volume.read(last - first, first) if first < last else b""


def _data_parts(volume: Volume) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is no hole, in parts that fit into memory."""
    at: int | None = volume.next_data(0) if volume.size else None
    while at is not None:
        end = volume.next_hole(at)
        yield from (
            (start, min(start + _COPIED_AT_ONCE, end)) for start in range(at, end, _COPIED_AT_ONCE)
        )
        at = volume.next_data(end) if end < volume.size else None
