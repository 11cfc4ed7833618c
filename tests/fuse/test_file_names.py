"""Which file shows which blob."""

import uuid

from blobstore import Blobstore, VolumeStore
from blobstore.device.memory import MemoryDevice
from blobstore.fuse.file_names import file_names


def test_a_blob_whose_name_is_no_file_name_or_not_its_own_is_shown_by_its_id() -> None:
    names = ["db", "twice", "twice", None, "a/b", ".", "..", "0x1", "n" * 256, "n" * 255, "ü"]
    with Blobstore.create(MemoryDevice(16 << 20), cluster_size="64KiB") as store:
        ids = [store.create_blob(name=name).id for name in names]
        shown = {blob_id: name for name, blob_id in file_names(store).items()}
    own = {"db", "n" * 255, "ü"}
    assert [shown[blob_id] for blob_id in ids] == [
        name if name in own else f"{blob_id:#x}" for name, blob_id in zip(names, ids, strict=True)
    ]


def test_a_volume_store_shows_its_volumes_and_not_its_super_blob() -> None:
    with VolumeStore.create(MemoryDevice(64 << 20), name=uuid.uuid4().hex) as vms:
        db = vms.create_volume("db", thin=True)
        assert file_names(vms) == {"db": db.id}
