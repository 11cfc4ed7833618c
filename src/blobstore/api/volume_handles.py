"""Open volume stores and volumes, as far as one step answers: the part that both colours share.

A volume is a blob with a name and a uuid. The index of the names is in memory, so looking a
volume up waits for nothing.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from blobstore.api.arguments import wrong_type
from blobstore.api.blob_handle import BlobHandle
from blobstore.api.session import OpenSession
from blobstore.api.store_handle import StoreHandle
from blobstore.errors import ExistsError, InvalidArgumentError, NotFoundError
from blobstore.units import BlobId
from blobstore.volumes.identity import RESERVED
from blobstore.volumes.volume_store import VolumeRecord, VolumeStoreState


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


class VolumeHandle(BlobHandle):
    """What is known of an open volume without waiting."""

    __slots__ = ()

    _volumes: VolumeStoreState
    _record: VolumeRecord

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

    def __repr__(self) -> str:
        state = f"{self.size} bytes" if not self.closed else "closed"
        return f"<{type(self).__name__} {self.alias!r} {state}>"


class VolumeStoreHandle(StoreHandle):
    """What is known of an open volume store without waiting."""

    def __init__(self, session: OpenSession, volumes: VolumeStoreState) -> None:
        super().__init__(session)
        self._volumes = volumes
        _open_stores.add(self)

    # What it is

    @property
    def name(self) -> str:
        """The store's name."""
        return self._volumes.name

    @property
    def uuid(self) -> UUID:
        """The store's uuid."""
        return self._volumes.uuid

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

    def volume_info(self, key: "str | UUID | int") -> VolumeInfo:
        """Return what is known of a volume without opening it.

        Raises:
            NotFoundError: There is no such volume.
        """
        return self._info_of(self._find(key))

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
            raise NotFoundError(self._not_found(key)).at(store=self.device_name)
        return found

    def _not_found(self, key: "str | UUID | int") -> str:
        if not isinstance(key, int):
            return f"no volume {str(key)!r}"
        if key == self._volumes.super_blob:
            return f"blob {key:#x}: is the store itself, no volume"
        return f"no volume {key:#x}"

    def _info_of(self, record: VolumeRecord) -> VolumeInfo:
        volumes = self._volumes
        return VolumeInfo(
            record.blob_id,
            record.name,
            record.uuid,
            volumes.unique_id(record),
            volumes.alias(record),
        )


_open_stores: Final["weakref.WeakSet[VolumeStoreHandle]"] = weakref.WeakSet()


def refuse_copy(device_name: str, volumes: VolumeStoreState) -> None:
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


def refuse_reserved(name: str) -> None:
    """Refuse the attributes that belong to the volume itself.

    Raises:
        InvalidArgumentError: It is one of those.
    """
    if name in RESERVED:
        raise InvalidArgumentError(f"xattr {name!r}: belongs to the volume; use rename or reid")
