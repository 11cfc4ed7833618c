"""What a server offers: the volumes or blobs of a store, by name.

The store is asked at every request, so exports follow its changes: a new volume can be opened
at once, one that has another name is found by that name, one of another size is announced when a
client connects again. A connection holds its blob open: the blob cannot be deleted meanwhile.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias

from blobstore import Blob, BlobId, BlobInfo, Blobstore, NotFoundError, Volume, VolumeStore
from blobstore.api import disk_view
from blobstore.api.disk_view import RANGES_MAX, Ranges
from blobstore.nbd.constants import STRING_MAX, ExportFlag
from blobstore.operations import Buffer
from blobstore.store.salvaged_mark import readers_of
from blobstore.units import format_size

AnyStore: TypeAlias = Blobstore | VolumeStore

_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}")

_READ_FLAGS: Final = (
    ExportFlag.HAS_FLAGS
    | ExportFlag.SEND_FLUSH
    | ExportFlag.SEND_DF
    | ExportFlag.SEND_CACHE
    | ExportFlag.CAN_MULTI_CONN
)
_WRITE_FLAGS: Final = (
    ExportFlag.SEND_FUA
    | ExportFlag.SEND_TRIM
    | ExportFlag.SEND_WRITE_ZEROES
    | ExportFlag.SEND_FAST_ZERO
)


class Exports(Protocol):
    """What a server serves."""

    def listed(self) -> Iterable[tuple[str, str]]:
        """Yield (name, description) of every export, for clients that ask what there is."""

    def open(self, name: str) -> "OpenExport":
        """Open an export, for one connection.

        Raises:
            NotFoundError: There is no such export.
            BlobstoreError: It cannot be opened.
        """


class Disk(Protocol):
    """What requests are carried out on; an open blob is one. Offsets and lengths are bytes."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""

    def read(self, length: int, offset: int = 0) -> bytes:
        """Return `length` bytes at `offset`."""

    def read_into(self, buffer: Any, offset: int = 0) -> int:
        """Fill a buffer from `offset`."""

    def write(self, data: Buffer, offset: int = 0) -> int:
        """Write `data` at `offset`."""

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make a range read as zeroes, without holes."""

    def unmap(self, offset: int, length: int) -> None:
        """Deallocate a range."""

    def flush(self) -> None:
        """Make all that was written durable."""

    def close(self) -> None:
        """Close it."""


class OpenExport(ABC):
    """An export that a connection has open."""

    def __init__(self, name: str, disk: Disk, *, read_only: bool, description: str) -> None:
        self.name = name
        self.disk = disk
        self.read_only = read_only
        self.description = description

    @property
    def flags(self) -> ExportFlag:
        """What clients can do: writes are refused where nothing can be changed.

        Several connections can share an export: a flush of one covers what the others wrote.
        """
        return _READ_FLAGS | (ExportFlag.READ_ONLY if self.read_only else _WRITE_FLAGS)

    @abstractmethod
    def depths(self, offset: int, length: int, limit: int = RANGES_MAX) -> Ranges:
        """Return how deep in the chain of snapshots each part is held, as `disk_view.depths`."""

    @abstractmethod
    def changes(self, base: BlobId, offset: int, length: int, limit: int) -> Ranges:
        """Return what can differ from a snapshot, as `disk_view.changes`."""

    @abstractmethod
    def bases(self) -> dict[str, BlobId]:
        """Return the snapshots that the export is based on, by a name that is theirs alone."""

    @abstractmethod
    def clear(self, offset: int, length: int) -> None:
        """Make a range read as zeroes; it may have holes afterwards."""

    def close(self) -> None:
        """Close the disk.

        Raises:
            BlobstoreError: Its metadata could not be written.
        """
        self.disk.close()


class BlobExport(OpenExport):
    """An open blob or volume as an export."""

    def __init__(self, name: str, blob: Blob, *, read_only: bool) -> None:
        super().__init__(
            name,
            blob,
            read_only=read_only or blob.data_read_only,
            description=describe(blob.info, is_salvaged=blob.nearest_salvaged is not None),
        )
        self.blob = blob

    def depths(self, offset: int, length: int, limit: int = RANGES_MAX) -> Ranges:
        return disk_view.depths(self.blob, offset, length, limit=limit)

    def changes(self, base: BlobId, offset: int, length: int, limit: int) -> Ranges:
        return disk_view.changes(self.blob, base, offset, length, limit=limit)

    def bases(self) -> dict[str, BlobId]:
        found = disk_view.ancestors(self.blob)
        names = Counter(name for _id, name in found)
        return {_base_name(name, blob_id, names): blob_id for blob_id, name in found}

    def clear(self, offset: int, length: int) -> None:
        disk_view.clear(self.blob, offset, length)


def _base_name(name: str | None, blob_id: BlobId, names: Counter[str | None]) -> str:
    return name if name and names[name] == 1 and _is_export_name(name) else f"{blob_id:#x}"


class StoreExports:
    """The blobs or volumes of a store.

    `first` are the ids of those to name first: the very first is also what a client gets that
    gives no name. Without `export_all` there are no others.
    """

    def __init__(
        self,
        store: AnyStore,
        first: Sequence[BlobId] = (),
        *,
        export_all: bool = True,
        read_only: bool = False,
    ) -> None:
        self._store = store
        self._first = tuple(first)
        self._export_all = export_all
        self._read_only = read_only or store.read_only

    def listed(self) -> Iterator[tuple[str, str]]:
        store = self._store
        if store.closed:
            return
        infos = [info for info in store.list_blobs() if info.error is None]
        salvaged = _salvaged(infos)
        if isinstance(store, VolumeStore):
            names = {info.id: info.name or info.unique_id for info in store}
        else:
            names = _names_of_blobs(infos)
        listed = {
            info.blob_id: (
                names[info.blob_id],
                describe(info, is_salvaged=info.blob_id in salvaged),
            )
            for info in infos
            if info.blob_id in names
        }
        first = [blob_id for blob_id in self._first if blob_id in listed]
        others = [blob_id for blob_id in listed if blob_id not in first]
        yield from (listed[blob_id] for blob_id in first + (others if self._export_all else []))

    def open(self, name: str) -> BlobExport:
        blob_id = self._find(name)
        if not (self._export_all or blob_id in self._first):
            raise NotFoundError(f"no export {name!r}")
        store = self._store
        if isinstance(store, VolumeStore):
            blob: Blob = store.open_volume(blob_id)
        else:
            blob = store.open_blob(blob_id)
        return self._opened(_name_of(blob), blob)

    def _opened(self, name: str, blob: Blob) -> BlobExport:
        return BlobExport(name, blob, read_only=self._read_only)

    def _find(self, name: str) -> BlobId:
        """Find a blob: by id, then by name. Volumes have names of their own, so these come first.

        Raises:
            NotFoundError: There is none.
            InvalidArgumentError: Several blobs have the name.
        """
        if not name:
            if not self._first:
                raise NotFoundError("no export without a name")
            return self._first[0]
        store, number = self._store, id_in(name)
        if isinstance(store, VolumeStore) and name in store:
            return store.volume_info(name).id
        if number is not None and number in store.blob_ids():
            return number
        return store.volume_info(name).id if isinstance(store, VolumeStore) else store.find(name)


def _name_of(blob: Blob) -> str:
    """Return the one name by which an open export is counted, whatever the client called it."""
    if isinstance(blob, Volume):
        return blob.name or blob.unique_id
    return blob.name if blob.name and _is_export_name(blob.name) else f"{blob.id:#x}"


def _names_of_blobs(infos: Sequence[BlobInfo]) -> dict[BlobId, str]:
    """Return the name that opens each blob: its own, or its id where that would not open it."""
    counts = Counter(info.name for info in infos)
    names: dict[BlobId, str] = {}
    for info in infos:
        is_usable = _is_export_name(info.name) and counts[info.name] == 1
        names[info.blob_id] = info.name if info.name and is_usable else f"{info.blob_id:#x}"
    return names


def _is_export_name(name: str | None) -> bool:
    """Tell whether a client can ask for a name: text of a limited length, and no id."""
    if not name or id_in(name) is not None:
        return False
    try:
        return len(name.encode()) <= STRING_MAX
    except UnicodeEncodeError:
        return False


def id_in(text: str) -> BlobId | None:
    """Return the id that a text is, decimal or 0x...; None for any other text."""
    if not _NUMBER.fullmatch(text):
        return None
    return BlobId(int(text, 16 if text[:2] in ("0x", "0X") else 10))


def _salvaged(infos: Sequence[BlobInfo]) -> set[BlobId]:
    """Return the blobs that a repair has salvaged, and those that read from them."""
    marked = {info.blob_id for info in infos if info.salvaged}
    if not marked:
        return marked
    parents = {info.blob_id: info.parent for info in infos if info.parent is not None}
    return marked | readers_of(marked, parents)


def describe(info: BlobInfo, *, is_salvaged: bool = False) -> str:
    """Say in a line what an export is; `is_salvaged`: zeroes in it stand for lost data."""
    kind = "snapshot" if info.snapshot else "clone" if info.parent is not None else "blob"
    words = ["read-only" if info.read_only and not info.snapshot else "", kind]
    provision = "thin" if info.thin else "thick"
    what = " ".join(word for word in words if word)
    mark = ", salvaged: lost data read as zeroes" if is_salvaged else ""
    size = format_size(info.size)
    return f"{what} {info.blob_id:#x}, {size}, {provision}{mark}{_uuid_in(info)}"


def _uuid_in(info: BlobInfo) -> str:
    value = info.xattrs.get("uuid")
    return "" if value is None else ", uuid " + value.rstrip(b"\0").decode("latin-1")
