"""Volume stores and volumes, for programs that block.

A volume is a blob with a name and a uuid. The code that reads and writes blobs also reads
and writes volumes, at no extra cost.
"""

from collections.abc import Mapping
from typing import Self
from uuid import UUID

from blobstore.api import core_calls
from blobstore.api.arguments import id_of, text_of
from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.api.external import External
from blobstore.api.open_store import OpenStore
from blobstore.api.session import Session
from blobstore.api.source import Source
from blobstore.api.store_opening import (
    DEFAULT_RATIO,
    DEFAULT_VOLUME_CLUSTER_SIZE,
    create_volume_store,
    load_store,
)
from blobstore.api.volume_handles import (
    VolumeHandle,
    VolumeStoreHandle,
    refuse_copy,
    refuse_reserved,
)
from blobstore.errors import CorruptError, NotFoundError
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer
from blobstore.store.blobs import ClearMethod
from blobstore.store.init import Clear
from blobstore.store.open_blobs import open_blob
from blobstore.units import BlobId
from blobstore.volumes import change
from blobstore.volumes.identity import VOLUME_STORE_TYPE
from blobstore.volumes.load_volumes import load_volume_store
from blobstore.volumes.volume_store import VolumeRecord, VolumeStoreState


class _Identified(Blob):
    """An open blob of a volume store: its name and uuid cannot be set as attributes."""

    __slots__ = ()

    def set_xattr(self, name: str, value: Buffer) -> None:
        """Set an attribute; `name` and `uuid` are refused.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            InvalidArgumentError: It is one of those two. Else as `Blob.set_xattr`.
        """
        refuse_reserved(text_of(name, "name"))
        super().set_xattr(name, value)

    def remove_xattr(self, name: str) -> None:
        """Remove an attribute; `name` and `uuid` are refused.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            InvalidArgumentError: It is one of those two. Else as `Blob.remove_xattr`.
        """
        refuse_reserved(text_of(name, "name"))
        super().remove_xattr(name)


class Volume(VolumeHandle, _Identified):
    """An open volume: a blob with a name and a uuid."""

    __slots__ = ("_record", "_volumes")

    def __init__(
        self, session: Session, state: BlobState, volumes: VolumeStoreState, record: VolumeRecord
    ) -> None:
        super().__init__(session, state)
        self._volumes = volumes
        self._record = record

    def rename(self, name: str) -> None:
        """Give the volume another name of 1 to 63 bytes.

        Durability: on return. A crash leaves the old name or the new one.

        Raises:
            InvalidArgumentError: A name that cannot be.
            ExistsError: Another volume of the store has it.
            ReadOnlyError: The volume is a snapshot or read-only.
        """
        self._run(core_calls.rename_volume(self._volumes, self._record, name))

    def set_attributes(
        self,
        xattrs: Mapping[str, Buffer | None] | None = None,
        *,
        name: str | None = None,
        read_only: bool = False,
    ) -> None:
        """Change attributes, the name and read-only together, by one write.

        `name` renames the volume. The value None removes an attribute, if it is there;
        `name` and `uuid` are refused. `read_only` makes the volume read-only for good.

        Durability: on return, with all that was written to the volume before. A crash leaves
        all of it as it was, or all changed.

        Raises:
            InvalidArgumentError: A name that cannot be, or one of those two attributes.
            ExistsError: Another volume of the store has the name.
            NoSpaceError, ReadOnlyError: As `Blob.set_attributes`.
        """
        core = core_calls.set_volume_attributes(
            self._volumes, self._record, self._state, xattrs, name, read_only
        )
        self._run(core)

    def snapshot(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Volume":
        """Make a read-only snapshot of what the volume holds now, and return it, open.

        The volume goes on as the snapshot's clone. No data are copied.

        Durability: on return.

        Raises:
            InvalidArgumentError: A name that cannot be, or the volume is read-only.
            ExistsError: The name is taken.
            NoSpaceError: Not enough metadata pages; nothing changed.
            BusyError: The volume is under another such operation.
        """
        core = core_calls.snapshot_volume(self._volumes, self._state, name, xattrs)
        return self._opened(self._run(core))

    def clone(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Volume":
        """Make a thin, writable clone of this snapshot or read-only volume, and return it, open.

        Durability: on return.

        Raises:
            InvalidArgumentError: A name that cannot be, or this volume can be written to.
            ExistsError: The name is taken.
            NoSpaceError: No metadata page is left.
        """
        core = core_calls.clone_volume(self._volumes, self.id, name, xattrs)
        return self._opened(self._run(core))

    def _opened(self, state: BlobState) -> "Volume":
        record = self._volumes.records[state.blob_id]
        return Volume(self._session, state, self._volumes, record)


class VolumeStore(VolumeStoreHandle, OpenStore):
    """An open store of volumes. Leaving its `with` closes all volumes and unloads it clean.

    `store["name"]` is the open volume of that name, uuid or alias; the store keeps it open,
    and closes it before it deletes it. Iterating yields what is known of every volume.

    Any number of threads may use it at once; processes may not: a writer
    holds the device alone.
    """

    def __init__(self, session: Session, volumes: VolumeStoreState) -> None:
        super().__init__(session, volumes)
        self._kept: dict[BlobId, Volume] = {}

    @classmethod
    def create(
        cls,
        source: Source,
        *,
        name: str,
        size: int | str | None = None,
        cluster_size: int | str = DEFAULT_VOLUME_CLUSTER_SIZE,
        max_size: int | str | None = None,
        md_pages: int | None = None,
        md_pages_per_cluster_ratio: int = DEFAULT_RATIO,
        block_size: int | None = None,
        md_page_size: int | str | None = None,
        clear: Clear | str = Clear.UNMAP,
        overwrite: bool = False,
        atomic_write_size: int | None = None,
        direct: bool = False,
        write_through: bool = False,
    ) -> Self:
        """Make a volume store, and open it.

        `name` has 1 to 63 bytes. `md_pages` is the number of metadata pages. Without it,
        `md_pages_per_cluster_ratio` gives the number, in percent of the clusters: 100 is a
        metadata page for each cluster. The rest is as for `Blobstore.create`.

        Durability: on return. A crash leaves no store, or an empty one.

        Raises:
            InvalidArgumentError: A name that cannot be, or sizes that do not fit each other.
            ExistsError, NoSpaceError, BusyError, UnsupportedError: As `Blobstore.create`.
        """
        loaded = create_volume_store(
            source,
            name=name,
            size=size,
            cluster_size=cluster_size,
            max_size=max_size,
            md_pages=md_pages,
            md_pages_per_cluster_ratio=md_pages_per_cluster_ratio,
            block_size=block_size,
            md_page_size=md_page_size,
            clear=clear,
            overwrite=overwrite,
            atomic_write_size=atomic_write_size,
            direct=direct,
            write_through=write_through,
        )
        session = Session(*loaded)
        try:
            return cls(session, session.run(load_volume_store(session.core)))
        except BaseException:
            session.close()
            raise

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        read_only: bool = False,
        force_recovery: bool = False,
        force: bool = False,
        atomic_write_size: int | None = None,
        direct: bool = False,
        write_through: bool = False,
        mapped: bool = False,
        wait: float = 0.0,
    ) -> Self:
        """Open a volume store; one that was not unloaded is recovered in memory first.

        The arguments are those of `Blobstore.open`.

        Raises:
            WrongTypeError: It is a store of another type (ENXIO).
            NotFoundError: It has no super blob, or one that cannot be read (ENODEV).
            CorruptError: There is no store, or one that makes no sense (EILSEQ), or its name
                or uuid is damaged (EINVAL).
            ExistsError: A store of the same uuid is open in this process: one is a copy.
            BusyError, UnsupportedError, InvalidArgumentError: As `Blobstore.open`.
        """
        loaded = load_store(
            source,
            bstype=VOLUME_STORE_TYPE,
            read_only=read_only,
            force_recovery=force_recovery,
            force=force,
            atomic_write_size=atomic_write_size,
            direct=direct,
            write_through=write_through,
            mapped=mapped,
            wait=wait,
        )
        session = Session(*loaded)
        try:
            return cls._of(session)
        except BaseException:
            session.close()
            raise

    @classmethod
    def _of(cls, session: Session) -> Self:
        """Find out which volumes an open store has; the caller closes it if that fails."""
        volumes = session.run(load_volume_store(session.core))
        refuse_copy(session.device.name, volumes)
        return cls(session, volumes)

    def rename(self, name: str) -> None:
        """Give the store another name of 1 to 63 bytes.

        Durability: on return. A crash leaves the old name or the new one.

        Raises:
            InvalidArgumentError: A name that cannot be.
        """
        self._session.run(core_calls.rename_store(self._volumes, name))

    def reid(self, *, name: str | None = None) -> None:
        """Give the store and all its volumes uuids of their own, and a name if one is given.

        This tells the copy of a device from the original. If it is interrupted, call it again.

        Durability: on return.

        Raises:
            InvalidArgumentError: A name that cannot be.
        """
        self._session.run(core_calls.reid(self._volumes, name))

    # Volumes

    def __getitem__(self, key: "str | UUID | int") -> Volume:
        return self.volume(key)

    def volume(self, key: "str | UUID | int") -> Volume:
        """Return the open volume of a name, uuid, unique id, alias or id; the store keeps it open.

        `store[key]` is the same.

        Raises:
            NotFoundError: There is no such volume; it is a KeyError's relative, a LookupError.
            CorruptError: It cannot be read.
        """
        record = self._find(key)
        kept = self._kept.get(record.blob_id)
        if kept is None or kept.closed:
            opened = self._open(record)
            kept = self._session.call(self._keep, record.blob_id, opened)
            if kept is not opened:
                opened.close()
        return kept

    def _keep(self, blob_id: BlobId, opened: Volume) -> Volume:
        """Keep a volume open, unless another thread was faster; return which is kept."""
        kept = self._kept.get(blob_id)
        if kept is None or kept.closed:
            kept = self._kept[blob_id] = opened
        return kept

    def open_volume(self, key: "str | UUID | int") -> Volume:
        """Open the volume of a name, uuid, unique id, alias or id; the caller closes it.

        Raises:
            NotFoundError: There is no such volume.
            CorruptError: It cannot be read.
        """
        return self._open(self._find(key))

    def open_blob(self, blob_id: int) -> Blob:
        """Open a blob by its id: a volume, or the super blob, which is none.

        Raises:
            NotFoundError: There is no such blob.
            CorruptError: It cannot be read.
        """
        wanted = id_of(blob_id)
        return self._handle(self._session.run(open_blob(self._core, wanted), wanted))

    def create_volume(
        self,
        name: str,
        size: int | str = 0,
        *,
        thin: bool = False,
        clear_method: ClearMethod | int = ClearMethod.DEFAULT,
        xattrs: Mapping[str, bytes] | None = None,
        external_snapshot: bytes | UUID | None = None,
    ) -> Volume:
        """Create a volume of `size` bytes, rounded up to whole clusters, and open it.

        `name` has 1 to 63 bytes. `external_snapshot` is the id or uuid of what it is a clone of.

        Durability: on return.

        Raises:
            InvalidArgumentError: A name that cannot be.
            ExistsError: The name is taken.
            NoSpaceError: No metadata page (ENOMEM), or not enough clusters (ENOSPC).
        """
        core = core_calls.create_volume(
            self._volumes,
            name,
            size,
            thin=thin,
            clear_method=clear_method,
            xattrs=xattrs,
            external_snapshot=external_snapshot,
        )
        state = self._session.run(core)
        return Volume(self._session, state, self._volumes, self._volumes.records[state.blob_id])

    def delete_volume(self, key: "str | UUID | int") -> None:
        """Delete a volume; a snapshot with one clone is merged into it.

        The volume that `store[key]` keeps open is closed first.

        Durability: on return.

        Raises:
            NotFoundError: There is no such volume.
            BusyError: It is open, or has several clones.
            CorruptError: It cannot be read; or a blob that cannot be read may be its clone.
        """
        record = self._find(key)
        kept = self._kept.pop(record.blob_id, None)
        if kept is not None:
            kept.close()
        self._session.run(change.delete_volume(self._volumes, record.blob_id), record.blob_id)

    def register_external(self, external_id: "bytes | UUID", what: External | None) -> None:
        """Say what an external snapshot's id or uuid stands for, as `Blobstore.register_external`.

        Raises:
            InvalidArgumentError: It is read in larger blocks than the store.
        """
        super().register_external(core_calls.external_id_of(external_id, "external_id"), what)

    def _open(self, record: VolumeRecord) -> Volume:
        state = self._session.run(open_blob(self._core, record.blob_id), record.blob_id)
        return Volume(self._session, state, self._volumes, record)

    def _handle(self, state: BlobState) -> Blob:
        record = self._volumes.records.get(state.blob_id)
        if record is None:
            return _Identified(self._session, state)
        return Volume(self._session, state, self._volumes, record)


def open_as_it_is(
    source: Source,
    *,
    read_only: bool,
    force: bool,
    atomic_write_size: int | None,
    direct: bool,
) -> Blobstore | VolumeStore:
    """Open a store of volumes or of blobs; the arguments are those of `Blobstore.open`.

    A volume store that lost its name, its uuid or its super blob is opened as a store of
    blobs: so the rest can be read, and repaired.

    Raises:
        BlobstoreError: As `Blobstore.open`, and ExistsError as `VolumeStore.open`.
    """
    loaded = load_store(
        source,
        bstype=None,
        read_only=read_only,
        force_recovery=False,
        force=force,
        atomic_write_size=atomic_write_size,
        direct=direct,
        write_through=False,
    )
    session = Session(*loaded)
    if session.core.super_block.bstype != VOLUME_STORE_TYPE:
        return Blobstore(session)
    try:
        return VolumeStore._of(session)
    except (NotFoundError, CorruptError):
        return Blobstore(session)
    except BaseException:
        session.close()
        raise
