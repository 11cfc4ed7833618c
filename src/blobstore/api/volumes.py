"""Volume stores and volumes, for programs that block.

A volume is a blob with a name and a uuid. The code that reads and writes blobs also reads
and writes volumes, at no extra cost.
"""

import uuid as uuids
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from blobstore.api.arguments import (
    check_flags,
    id_of,
    integer_of,
    member_of,
    optional,
    size_of,
    text_of,
    value_of,
    wrong_type,
    xattrs_of,
)
from blobstore.api.blob import Blob
from blobstore.api.blobstore import Blobstore
from blobstore.api.external import External
from blobstore.api.open_store import OpenStore, create_session, load_session
from blobstore.api.session import Session
from blobstore.api.source import Source
from blobstore.errors import CorruptError, ExistsError, InvalidArgumentError, NotFoundError
from blobstore.metadata.blob_state import BlobState
from blobstore.metadata.store_state import StoreState
from blobstore.operations import Buffer
from blobstore.store.blobs import BlobOptions, ClearMethod
from blobstore.store.init import Clear, InitOptions
from blobstore.store.open_blobs import open_blob
from blobstore.units import MIB, BlobId, ceil_div
from blobstore.volumes import change
from blobstore.volumes.identity import RESERVED, VOLUME_STORE_TYPE, check_name, encode_uuid
from blobstore.volumes.load import create_super_blob, load_volume_store
from blobstore.volumes.volume_store import VolumeRecord, VolumeStoreState

DEFAULT_VOLUME_CLUSTER_SIZE: Final = 4 * MIB
DEFAULT_RATIO: Final = 100
"""Metadata pages for each hundred clusters."""


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What is known of a volume without opening it.

    `uuid` is None where it is missing or damaged. `unique_id` names the volume all the same.
    """

    id: BlobId
    name: str
    uuid: UUID | None
    unique_id: str
    alias: str


class _Identified(Blob):
    """An open blob of a volume store: its name and uuid cannot be set as attributes."""

    __slots__ = ()

    def set_xattr(self, name: str, value: Buffer) -> None:
        """Set an attribute; `name` and `uuid` are refused.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            InvalidArgumentError: It is one of those two. Else as `Blob.set_xattr`.
        """
        _refuse_reserved(text_of(name, "name"))
        super().set_xattr(name, value)

    def remove_xattr(self, name: str) -> None:
        """Remove an attribute; `name` and `uuid` are refused.

        Durability: with the next `sync_md`, `flush` or `close`.

        Raises:
            InvalidArgumentError: It is one of those two. Else as `Blob.remove_xattr`.
        """
        _refuse_reserved(text_of(name, "name"))
        super().remove_xattr(name)


class Volume(_Identified):
    """An open volume: a blob with a name and a uuid."""

    __slots__ = ("_record", "_volumes")

    def __init__(
        self, session: Session, state: BlobState, volumes: VolumeStoreState, record: VolumeRecord
    ) -> None:
        super().__init__(session, state)
        self._volumes = volumes
        self._record = record

    @property
    def name(self) -> str:
        """The volume's name; empty where it is missing."""
        return self._record.name

    @property
    def uuid(self) -> UUID | None:
        """The volume's uuid; None where it is missing or damaged."""
        return self._record.uuid

    @property
    def unique_id(self) -> str:
        """The text that names the volume among those of all stores: its uuid, if it has one."""
        return self._volumes.unique_id(self._record)

    @property
    def alias(self) -> str:
        """The volume's name with that of its store: ``store/volume``."""
        return self._volumes.alias(self._record)

    def rename(self, name: str) -> None:
        """Give the volume another name of 1 to 63 bytes.

        Durability: on return. A crash leaves the old name or the new one.

        Raises:
            InvalidArgumentError: A name that cannot be.
            ExistsError: Another volume of the store has it.
            ReadOnlyError: The volume is a snapshot or read-only.
        """
        wanted = text_of(name, "name")
        self._run(change.rename_volume(self._volumes, self._record, wanted))

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
        wanted, uuid, more = _name_of_new(name), uuids.uuid4(), xattrs_of(xattrs)
        core = change.snapshot_volume(
            self._volumes, self._state, name=wanted, uuid=uuid, xattrs=more
        )
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
        wanted, uuid, more = _name_of_new(name), uuids.uuid4(), xattrs_of(xattrs)
        core = change.clone_volume(self._volumes, self.id, name=wanted, uuid=uuid, xattrs=more)
        return self._opened(self._run(core))

    def _opened(self, state: BlobState) -> "Volume":
        record = self._volumes.records[state.blob_id]
        return Volume(self._session, state, self._volumes, record)

    def __repr__(self) -> str:
        state = f"{self.size} bytes" if not self.closed else "closed"
        return f"<Volume {self.alias!r} {state}>"


class VolumeStore(OpenStore):
    """An open store of volumes. Leaving its `with` closes all volumes and unloads it clean.

    `store["name"]` is the open volume of that name, uuid or alias; the store keeps it open,
    and closes it before it deletes it. Iterating yields what is known of every volume.

    Any number of threads may use it at once; processes may not: a writer
    holds the device alone.
    """

    def __init__(self, session: Session, volumes: VolumeStoreState) -> None:
        super().__init__(session)
        self._volumes = volumes
        self._kept: dict[BlobId, Volume] = {}
        _open_stores.add(self)

    @classmethod
    def create(
        cls,
        source: Source,
        *,
        name: str,
        size: int | str | None = None,
        cluster_size: int | str = DEFAULT_VOLUME_CLUSTER_SIZE,
        max_size: int | str | None = None,
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

        `name` has 1 to 63 bytes. `md_pages_per_cluster_ratio` is in percent: 100 is a
        metadata page for each cluster. The rest is as for `Blobstore.create`.

        Durability: on return. A crash leaves no store, or an empty one.

        Raises:
            InvalidArgumentError: A name that cannot be, or sizes that do not fit each other.
            ExistsError, NoSpaceError, BusyError, UnsupportedError: As `Blobstore.create`.
        """
        wanted, uuid = text_of(name, "name"), uuids.uuid4()
        check_name(wanted)
        options = InitOptions(
            cluster_size=size_of(cluster_size, "cluster_size"),
            max_size=optional(size_of, max_size, "max_size"),
            md_ratio=_ratio_of(md_pages_per_cluster_ratio),
            md_page_size=optional(size_of, md_page_size, "md_page_size"),
            bstype=VOLUME_STORE_TYPE,
            clear=member_of(Clear, clear, argument="clear"),
        )

        async def make_super_blob(core: StoreState) -> BlobId:
            return await create_super_blob(core, name=wanted, uuid=uuid)

        session = create_session(
            source,
            options,
            size=size,
            block_size=block_size,
            overwrite=overwrite,
            atomic_write_size=atomic_write_size,
            direct=direct,
            write_through=write_through,
            make_super_blob=make_super_blob,
        )
        return cls(session, session.run(load_volume_store(session.core)))

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
    ) -> Self:
        """Open a volume store; one that was not unloaded is recovered in memory first.

        The arguments are those of `Blobstore.open`.

        Raises:
            WrongTypeError: It is a store of another type (ENXIO).
            NotFoundError: It has no super blob, or one that cannot be read (ENODEV).
            CorruptError: There is no store, or one that makes no sense (EILSEQ), or its name
                or uuid is damaged (EINVAL).
            ExistsError: A store of the same uuid is open in this process: one is a copy.
            BusyError, UnsupportedError: As `Blobstore.open`.
        """
        session = load_session(
            source,
            bstype=VOLUME_STORE_TYPE,
            read_only=read_only,
            force_recovery=force_recovery,
            force=force,
            atomic_write_size=atomic_write_size,
            direct=direct,
            write_through=write_through,
        )
        try:
            return cls._of(session)
        except BaseException:
            session.close()
            raise

    @classmethod
    def _of(cls, session: Session) -> Self:
        """Find out which volumes an open store has; the caller closes it if that fails."""
        volumes = session.run(load_volume_store(session.core))
        _refuse_copy(session.device.name, volumes)
        return cls(session, volumes)

    # What it is

    @property
    def name(self) -> str:
        """The store's name."""
        return self._volumes.name

    @property
    def uuid(self) -> UUID:
        """The store's uuid."""
        return self._volumes.uuid

    def rename(self, name: str) -> None:
        """Give the store another name of 1 to 63 bytes.

        Durability: on return. A crash leaves the old name or the new one.

        Raises:
            InvalidArgumentError: A name that cannot be.
        """
        self._session.run(change.rename_store(self._volumes, text_of(name, "name")))

    def reid(self, *, name: str | None = None) -> None:
        """Give the store and all its volumes uuids of their own, and a name if one is given.

        This tells the copy of a device from the original. If it is interrupted, call it again.

        Durability: on return.

        Raises:
            InvalidArgumentError: A name that cannot be.
        """
        wanted = optional(text_of, name, "name")
        fresh = {record.blob_id: uuids.uuid4() for record in self._volumes}
        core = change.set_identity(self._volumes, uuid=uuids.uuid4(), name=wanted, uuids=fresh)
        self._session.run(core)

    # Volumes

    def __iter__(self) -> Iterator[VolumeInfo]:
        """Yield what is known of every volume."""
        self._session.check_open()
        for record in self._volumes:
            yield self._info_of(record)

    def __len__(self) -> int:
        return len(self._volumes.records)

    def __contains__(self, key: object) -> bool:
        try:
            self._find(key)
        except (NotFoundError, TypeError):
            return False
        return True

    def __getitem__(self, key: "str | UUID | int") -> Volume:
        """Return the open volume of a name, uuid, unique id, alias or id; the store keeps it open.

        Raises:
            NotFoundError: There is no such volume; it is a KeyError's relative, a LookupError.
            CorruptError: It cannot be read.
        """
        record = self._find(key)
        kept = self._kept.get(record.blob_id)
        if kept is None or kept.closed:
            kept = self._kept[record.blob_id] = self._open(record)
        return kept

    def volume_info(self, key: "str | UUID | int") -> VolumeInfo:
        """Return what is known of a volume without opening it.

        Raises:
            NotFoundError: There is no such volume.
        """
        return self._info_of(self._find(key))

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
        check_flags(thin=thin)
        options = BlobOptions(
            cluster_count=ceil_div(size_of(size), self.cluster_size),
            thin=thin or external_snapshot is not None,
            clear_method=member_of(ClearMethod, clear_method, argument="clear_method"),
            xattrs=xattrs_of(xattrs),
            external_id=optional(_external_id_of, external_snapshot, "external_snapshot"),
        )
        wanted = text_of(name, "name")
        core = change.create_volume(self._volumes, options, name=wanted, uuid=uuids.uuid4())
        state = self._session.run(core)
        return Volume(self._session, state, self._volumes, self._volumes.records[state.blob_id])

    def delete_volume(self, key: "str | UUID | int") -> None:
        """Delete a volume; a snapshot with one clone is merged into it.

        The volume that `store[key]` keeps open is closed first.

        Durability: on return.

        Raises:
            NotFoundError: There is no such volume.
            BusyError: It is open, or has several clones.
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
        super().register_external(_external_id_of(external_id, "external_id"), what)

    def _find(self, key: object) -> VolumeRecord:
        self._session.check_open()
        if isinstance(key, UUID):
            found = self._volumes.of_uuid(key)
        elif isinstance(key, int):
            found = self._volumes.records.get(BlobId(key))
        elif isinstance(key, str):
            found = self._volumes.find(key)
        else:
            raise wrong_type("key", key, expected="a name, a uuid or an id")
        if found is None:
            shown = f"{key:#x}" if isinstance(key, int) else repr(str(key))
            raise NotFoundError(f"no volume {shown}").at(store=self.device_name)
        return found

    def _open(self, record: VolumeRecord) -> Volume:
        state = self._session.run(open_blob(self._core, record.blob_id), record.blob_id)
        return Volume(self._session, state, self._volumes, record)

    def _handle(self, state: BlobState) -> Blob:
        record = self._volumes.records.get(state.blob_id)
        if record is None:
            return _Identified(self._session, state)
        return Volume(self._session, state, self._volumes, record)

    def _info_of(self, record: VolumeRecord) -> VolumeInfo:
        volumes = self._volumes
        return VolumeInfo(
            record.blob_id,
            record.name,
            record.uuid,
            volumes.unique_id(record),
            volumes.alias(record),
        )


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
        As `Blobstore.open`, and ExistsError as `VolumeStore.open`.
    """
    session = load_session(
        source,
        bstype=None,
        read_only=read_only,
        force_recovery=False,
        force=force,
        atomic_write_size=atomic_write_size,
        direct=direct,
        write_through=False,
    )
    if session.core.super_block.bstype != VOLUME_STORE_TYPE:
        return Blobstore(session)
    try:
        return VolumeStore._of(session)
    except (NotFoundError, CorruptError):
        return Blobstore(session)
    except BaseException:
        session.close()
        raise


_open_stores: Final["weakref.WeakSet[VolumeStore]"] = weakref.WeakSet()


def _refuse_copy(device_name: str, volumes: VolumeStoreState) -> None:
    """Refuse a store whose uuid an open store on another device has: one is a copy of the other.

    Raises:
        ExistsError: There is one.
    """
    for store in list(_open_stores):
        is_other = not store.closed and store.device_name != device_name
        if is_other and store.uuid == volumes.uuid:
            raise ExistsError(
                f"store {volumes.name!r} has the uuid {volumes.uuid} of {store.name!r} on "
                f"{store.device_name}, which is open: one is a copy; give it uuids of its own "
                "(reid) while the other is closed"
            ).at(store=device_name)


def _name_of_new(name: str | None) -> str:
    if name is None:
        raise InvalidArgumentError("name: expected 1 to 63 bytes, got none: every volume has one")
    return text_of(name, "name")


def _external_id_of(value: object, argument: str) -> bytes:
    return encode_uuid(value) if isinstance(value, UUID) else value_of(value, argument)


def _ratio_of(value: int) -> int:
    ratio = integer_of(value, "md_pages_per_cluster_ratio")
    if ratio <= 0:
        raise InvalidArgumentError(f"md_pages_per_cluster_ratio: expected more than 0, got {ratio}")
    return ratio


def _refuse_reserved(name: str) -> None:
    if name in RESERVED:
        raise InvalidArgumentError(f"xattr {name!r}: belongs to the volume; use rename or reid")
