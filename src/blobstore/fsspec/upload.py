"""A volume in the making: it has a temporary name until it is complete.

The volume grows with what is written, so that no length has to be known, and no more than one
part is in memory. It gets its own name at the end, and replaces what had the name: a writer
that fails leaves what was there. If the power fails between these two steps, the complete
new volume is left under its temporary name.
"""

import secrets
from contextlib import ExitStack
from typing import Final

from blobstore.api.volumes import Volume, VolumeStore
from blobstore.errors import ExistsError, ReadOnlyError
from blobstore.fsspec.lengths import LENGTH, encode_length
from blobstore.fsspec.store_uses import Address, use_store
from blobstore.volumes.identity import NAME_SIZE, check_name

_NAME_KEPT_MAX: Final = (NAME_SIZE - 16) // 4  # characters of at most 4 bytes


class Upload:
    """Makes the volume `name`; it has to be ended by `commit` or `discard`."""

    def __init__(self, source: "Address | VolumeStore", name: str) -> None:
        """Make an empty volume.

        Raises:
            ReadOnlyError: The name is that of a snapshot, or of another read-only volume.
            BlobstoreError: As `use_store` and `VolumeStore.create_volume`.
        """
        check_name(name)
        self._name = name
        with ExitStack() as stack:
            self.store: VolumeStore = stack.enter_context(use_store(source, writable=True))
            if name in self.store:
                check_replaceable(self.store, name)
            temporary = f".{name[:_NAME_KEPT_MAX]}.{secrets.token_hex(4)}.part"
            self._volume: Volume = self.store.create_volume(temporary, thin=True)
            self._uses = stack.pop_all()

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write a part.

        Raises:
            NoSpaceError: The store is full.
            DeviceError: The device failed.
        """
        self.grow(offset + len(data))
        self._volume.write(data, offset)

    def grow(self, size: int) -> None:
        """Make the volume at least as large."""
        if size > self._volume.size:
            self._volume.resize(size)

    def commit(self, length: int, *, replace: bool = True) -> None:
        """Let the volume have its name; what had the name is deleted if `replace` says so.

        Durability: on return.

        Raises:
            ExistsError: The name is taken.
            ReadOnlyError: What has the name is a snapshot, or read-only.
            BusyError: What has the name is open, or has several clones.
        """
        with self._uses, self._volume:
            try:
                self._volume.set_xattr(LENGTH, encode_length(length))
                self._volume.flush()
                self._delete_old(replace=replace)
            except BaseException:
                self.discard()
                raise
            self._volume.rename(self._name)

    def _delete_old(self, *, replace: bool) -> None:
        if self._name not in self.store:
            return
        if not replace:
            raise ExistsError(f"volume {self._name!r}: exists")
        check_replaceable(self.store, self._name)
        self.store.delete_volume(self._name)

    def discard(self) -> None:
        """Delete the volume."""
        with self._uses:
            volume_id = self._volume.id
            self._volume.close()
            self.store.delete_volume(volume_id)


def check_replaceable(store: VolumeStore, name: str) -> None:
    """Refuse to let another volume take the name of a volume that must not change.

    Raises:
        ReadOnlyError: It is a snapshot, or read-only.
    """
    with store.open_volume(name) as volume:
        if volume.read_only:
            raise ReadOnlyError(f"volume {name!r}: a snapshot or read-only, is not replaced")
