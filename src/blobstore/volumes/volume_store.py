"""A loaded volume store: which volumes it has, by id, name and uuid.

The records live in memory. They are made when the store is loaded, from the attributes of
every blob, and they change in the step in which a change of the device is acknowledged.
Every change of a name holds the store's mutex from the search for the name to the last
flush. So "is the name free" and "create" are one step, and no list of pending names is
needed. A search looks at every record: damaged stores have names twice, and the first counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from blobstore.errors import ExistsError
from blobstore.metadata.store_state import StoreState
from blobstore.units import BlobId

_UUID_LENGTH: Final = 36


@dataclass(slots=True, eq=False)
class VolumeRecord:
    """What is known of one volume without opening it.

    `uuid` is None for a *legacy* volume, whose uuid is missing or damaged. `name` is empty
    where the name is missing.
    """

    blob_id: BlobId
    name: str
    uuid: UUID | None


@dataclass(slots=True, eq=False)
class VolumeStoreState:
    """A volume store, as the core works on it.

    `records` are its volumes: in the order of their ids after loading, then in the order
    of their creation.
    """

    core: StoreState
    name: str
    uuid: UUID
    super_blob: BlobId
    records: dict[BlobId, VolumeRecord] = field(default_factory=dict)

    def named(self, name: str) -> VolumeRecord | None:
        """Return the first volume of this name."""
        return next((record for record in self.records.values() if record.name == name), None)

    def of_uuid(self, uuid: UUID) -> VolumeRecord | None:
        """Return the first volume of this uuid."""
        return next((record for record in self.records.values() if record.uuid == uuid), None)

    def unique_id(self, record: VolumeRecord) -> str:
        """Return the text that names the volume in every store: its uuid, if it has one."""
        if record.uuid is not None:
            return str(record.uuid)
        return f"{self.uuid}_{record.blob_id}"

    def alias(self, record: VolumeRecord) -> str:
        """Return the name of the volume with that of its store."""
        return f"{self.name}/{record.name}"

    def find(self, key: str) -> VolumeRecord | None:
        """Return the volume of this name, uuid, unique id or alias, tried in that order."""
        return self.named(key) or self._of_text(key)

    def _of_text(self, key: str) -> VolumeRecord | None:
        prefix = f"{self.name}/"
        if key.startswith(prefix):
            return self.named(key[len(prefix) :])
        lowered = key.lower()
        uuid = _canonical_uuid(lowered)
        if uuid is not None:
            return self.of_uuid(uuid)
        legacy = (record for record in self.records.values() if record.uuid is None)
        return next((record for record in legacy if self.unique_id(record) == lowered), None)

    def check_free(self, name: str) -> None:
        """Refuse a name that a volume has.

        Raises:
            ExistsError: It is taken.
        """
        if self.named(name) is not None:
            raise ExistsError(f"volume {name!r}: exists")

    def add(self, blob_id: BlobId, name: str, uuid: UUID) -> VolumeRecord:
        """Note a new volume."""
        record = VolumeRecord(blob_id, name, uuid)
        self.records[blob_id] = record
        return record

    def __iter__(self) -> Iterator[VolumeRecord]:
        return iter(list(self.records.values()))


def _canonical_uuid(text: str) -> UUID | None:
    """Return the uuid that a text is, if the text is how the uuid is written."""
    if len(text) != _UUID_LENGTH:
        return None
    try:
        uuid = UUID(text)
    except ValueError:
        return None
    return uuid if str(uuid) == text else None
