"""Volume stores and volumes, for programs under asyncio."""

from collections.abc import Callable, Mapping
from typing import ParamSpec, Self
from uuid import UUID

from blobstore.api import core_calls
from blobstore.api.aio.async_blob import AsyncBlob
from blobstore.api.aio.async_opening import Opening
from blobstore.api.aio.async_session import AsyncSession
from blobstore.api.aio.async_store import AsyncOpenStore
from blobstore.api.aio.same_names import documented_as
from blobstore.api.arguments import id_of, text_of
from blobstore.api.external import External
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
from blobstore.api.volumes import Volume, VolumeStore
from blobstore.metadata.blob_state import BlobState
from blobstore.operations import Buffer, Core
from blobstore.store.blobs import ClearMethod
from blobstore.store.init import Clear
from blobstore.store.open_blobs import open_blob
from blobstore.units import BlobId
from blobstore.volumes import change
from blobstore.volumes.identity import VOLUME_STORE_TYPE
from blobstore.volumes.load_volumes import load_volume_store
from blobstore.volumes.volume_store import VolumeRecord, VolumeStoreState

P = ParamSpec("P")


@documented_as(Volume)
class _Identified(AsyncBlob):
    """An open blob of a volume store: its name and uuid cannot be set as attributes."""

    __slots__ = ()

    async def set_xattr(self, name: str, value: Buffer) -> None:
        refuse_reserved(text_of(name, "name"))
        await super().set_xattr(name, value)

    async def remove_xattr(self, name: str) -> None:
        refuse_reserved(text_of(name, "name"))
        await super().remove_xattr(name)


@documented_as(Volume)
class AsyncVolume(VolumeHandle, _Identified):
    """An open volume on an event loop: a blob with a name and a uuid."""

    __slots__ = ("_record", "_volumes")

    def __init__(
        self,
        session: AsyncSession,
        state: BlobState,
        volumes: VolumeStoreState,
        record: VolumeRecord,
    ) -> None:
        super().__init__(session, state)
        self._volumes = volumes
        self._record = record

    async def rename(self, name: str) -> None:
        await self._run(core_calls.rename_volume(self._volumes, self._record, name))

    async def set_attributes(
        self,
        xattrs: Mapping[str, Buffer | None] | None = None,
        *,
        name: str | None = None,
        read_only: bool = False,
    ) -> None:
        core = core_calls.set_volume_attributes(
            self._volumes, self._record, self._state, xattrs, name, read_only
        )
        await self._run(core)

    def snapshot(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Opening[AsyncVolume]":
        call = core_calls.snapshot_volume
        return Opening(self._opened_volume(call, self._volumes, self._state, name, xattrs))

    def clone(
        self, name: str | None = None, *, xattrs: Mapping[str, bytes] | None = None
    ) -> "Opening[AsyncVolume]":
        call = core_calls.clone_volume
        return Opening(self._opened_volume(call, self._volumes, self.id, name, xattrs))

    async def _opened_volume(
        self, call: Callable[P, Core[BlobState]], *args: P.args, **kwargs: P.kwargs
    ) -> "AsyncVolume":
        self._check_open()
        state = await self._session.open(call(*args, **kwargs), self.id)
        record = self._volumes.records[state.blob_id]
        return AsyncVolume(self._session, state, self._volumes, record)


@documented_as(VolumeStore)
class AsyncVolumeStore(VolumeStoreHandle, AsyncOpenStore):
    """An open store of volumes on an event loop. Leaving its `async with` unloads it clean.

    `await store.volume("name")` is the open volume of that name, uuid or alias; the store keeps
    it open, and closes it before it deletes it. Iterating yields what is known of every volume.

    Any number of tasks of that loop may use it at once; threads and processes may not. Its
    methods are those of `VolumeStore`; the ones that may wait are awaited.
    """

    def __init__(self, session: AsyncSession, volumes: VolumeStoreState) -> None:
        super().__init__(session, volumes)
        self._kept: dict[BlobId, AsyncVolume] = {}

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
    ) -> Opening[Self]:
        async def make() -> Self:
            session = await AsyncSession.start(
                create_volume_store,
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
            return await cls._of(session)

        return Opening(make())

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
    ) -> Opening[Self]:
        async def load() -> Self:
            session = await AsyncSession.start_when_free(
                wait,
                load_store,
                source,
                bstype=VOLUME_STORE_TYPE,
                read_only=read_only,
                force_recovery=force_recovery,
                force=force,
                atomic_write_size=atomic_write_size,
                direct=direct,
                write_through=write_through,
                mapped=mapped,
            )
            return await cls._of(session)

        return Opening(load())

    @classmethod
    async def _of(cls, session: AsyncSession) -> Self:
        """Find out which volumes a store has; it is closed if that fails."""
        try:
            volumes = await session.run(load_volume_store(session.core))
            refuse_copy(session.device.name, volumes)
        except BaseException:
            await session.close()
            raise
        return cls(session, volumes)

    # What it is

    async def rename(self, name: str) -> None:
        await self._session.run(core_calls.rename_store(self._volumes, name))

    async def reid(self, *, name: str | None = None) -> None:
        await self._session.run(core_calls.reid(self._volumes, name))

    # Volumes

    async def volume(self, key: "str | UUID | int") -> AsyncVolume:
        """Return the open volume of a name, uuid, unique id, alias or id; the store keeps it open.

        Raises:
            NotFoundError: There is no such volume; it is a KeyError's relative, a LookupError.
            CorruptError: It cannot be read.
        """
        record = self._find(key)
        if (kept := self._kept_open(record)) is not None:
            return kept
        opened = await self._open(record)
        if (kept := self._kept_open(record)) is not None:  # another task was faster
            await opened.close()
            return kept
        self._kept[record.blob_id] = opened
        return opened

    def _kept_open(self, record: VolumeRecord) -> AsyncVolume | None:
        kept = self._kept.get(record.blob_id)
        return None if kept is None or kept.closed else kept

    def open_volume(self, key: "str | UUID | int") -> Opening[AsyncVolume]:
        return Opening(self._open(self._find(key)))

    def open_blob(self, blob_id: int) -> Opening[AsyncBlob]:
        wanted = id_of(blob_id)
        return Opening(self._opened(open_blob(self._core, wanted), wanted))

    def create_volume(
        self,
        name: str,
        size: int | str = 0,
        *,
        thin: bool = False,
        clear_method: ClearMethod | int = ClearMethod.DEFAULT,
        xattrs: Mapping[str, bytes] | None = None,
        external_snapshot: bytes | UUID | None = None,
    ) -> Opening[AsyncVolume]:
        core = core_calls.create_volume(
            self._volumes,
            name,
            size,
            thin=thin,
            clear_method=clear_method,
            xattrs=xattrs,
            external_snapshot=external_snapshot,
        )
        return Opening(self._opened_volume(core))

    async def delete_volume(self, key: "str | UUID | int") -> None:
        record = self._find(key)
        kept = self._kept.pop(record.blob_id, None)
        if kept is not None:
            await kept.close()
        await self._session.run(change.delete_volume(self._volumes, record.blob_id), record.blob_id)

    async def register_external(
        self, external_id: "bytes | UUID", what: External | AsyncBlob | None
    ) -> None:
        wanted = core_calls.external_id_of(external_id, "external_id")
        await super().register_external(wanted, what)

    async def _open(self, record: VolumeRecord) -> AsyncVolume:
        return await self._opened_volume(open_blob(self._core, record.blob_id), record.blob_id)

    async def _opened_volume(
        self, core: Core[BlobState], blob_id: BlobId | None = None
    ) -> AsyncVolume:
        state = await self._session.open(core, blob_id)
        record = self._volumes.records[state.blob_id]
        return AsyncVolume(self._session, state, self._volumes, record)

    def _handle(self, state: BlobState) -> AsyncBlob:
        record = self._volumes.records.get(state.blob_id)
        if record is None:
            return _Identified(self._session, state)
        return AsyncVolume(self._session, state, self._volumes, record)
