"""A wrong type for any parameter of the public API is an error that names the parameter."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import blobstore
from blobstore import (
    Blobstore,
    InvalidArgumentError,
    MemoryDevice,
    Rescue,
    RescuedBlob,
    VolumeStore,
    ZeroesDevice,
)
from blobstore.units import KIB, MIB
from tests.public_api import public_callables

CLUSTER: Final = 16 * KIB
SIZE: Final = 4 * MIB


class Place:
    """A store with a blob and a snapshot, another that is closed, and one that rescue reads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.closed = directory / "closed.img"
        Blobstore.create(self.closed, size=SIZE, cluster_size=CLUSTER).close()
        self.store = Blobstore.create(directory / "disk.img", size=SIZE, cluster_size=CLUSTER)
        self.blob = self.store.create_blob(4 * CLUSTER, thin=True, name="vol0")
        self.blob.write(b"kept")
        self.snapshot = self.blob.snapshot(name="monday")
        self.rescue = Rescue.open(self.closed)
        self.volumes = VolumeStore.create(MemoryDevice(SIZE), name="vms", cluster_size=CLUSTER)
        self.volume = self.volumes.create_volume("db", CLUSTER, thin=True)

    def close(self) -> None:
        self.volumes.close()
        self.rescue.close()
        self.store.close()

    def rescued(self) -> RescuedBlob:
        with Blobstore.create(self.directory / "broken.img", size=SIZE) as store:
            blob_id = store.create_blob(1).id
        self.rescue.close()
        self.rescue = Rescue.open(self.directory / "broken.img")
        return self.rescue.blob(blob_id)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


Call = Callable[[Place], tuple[Callable[..., Any], dict[str, Any]]]

CALLS: Final[dict[str, Call]] = {
    # A store
    "Blobstore.create": lambda p: (Blobstore.create, {"source": p.directory / "new.img"}),
    "Blobstore.open": lambda p: (Blobstore.open, {"source": p.closed}),
    "Blobstore.create_blob": lambda p: (p.store.create_blob, {}),
    "Blobstore.find": lambda p: (p.store.find, {"name": "vol0"}),
    "Blobstore.open_blob": lambda p: (p.store.open_blob, {}),
    "Blobstore.register_external": lambda p: (
        p.store.register_external,
        {"external_id": b"golden", "what": ZeroesDevice(SIZE)},
    ),
    "Blobstore.delete_blob": lambda p: (p.store.delete_blob, {"blob_id": p.blob.id}),
    "Blobstore.iter_blobs": lambda p: (lambda **given: list(p.store.iter_blobs(**given)), {}),
    "Blobstore.read_many": lambda p: (
        p.store.read_many,
        {"blobs": [p.blob], "offsets": [0], "length": 1},
    ),
    "Blobstore.set_super_blob": lambda p: (p.store.set_super_blob, {"blob_id": p.blob.id}),
    "Blobstore.set_type": lambda p: (p.store.set_type, {"bstype": b"type"}),
    "grow": lambda p: (blobstore.grow, {"source": p.closed}),
    "dump": lambda p: (blobstore.dump, {"source": p.closed}),
    "iter_dump": lambda p: (lambda **given: list(blobstore.iter_dump(**given)), {}),
    "check": lambda p: (blobstore.check, {"source": p.closed}),
    "repair": lambda p: (blobstore.repair, {"source": p.closed}),
    "undo": lambda p: (blobstore.undo, {"source": p.closed, "path": p.directory / "undo"}),
    # A blob
    "Blob.read": lambda p: (p.blob.read, {"length": 1}),
    "Blob.read_into": lambda p: (p.blob.read_into, {"buffer": bytearray(1)}),
    "Blob.readv": lambda p: (p.blob.readv, {"buffers": [bytearray(1)]}),
    "Blob.write": lambda p: (p.blob.write, {"data": b"text"}),
    "Blob.writev": lambda p: (p.blob.writev, {"buffers": [b"text"]}),
    "Blob.read_many": lambda p: (p.blob.read_many, {"offsets": [0], "length": 1}),
    "Blob.write_many": lambda p: (p.blob.write_many, {"offsets": [0], "data": b"x"}),
    "Blob.view": lambda p: (p.blob.view, {"offset": 0, "length": 1}),
    "Blob.write_zeroes": lambda p: (p.blob.write_zeroes, {"offset": 0, "length": 1}),
    "Blob.unmap": lambda p: (p.blob.unmap, {"offset": 0, "length": 1}),
    "Blob.open": lambda p: (p.blob.open, {}),
    "Blob.resize": lambda p: (p.blob.resize, {"size": CLUSTER}),
    "Blob.get_xattr": lambda p: (p.blob.get_xattr, {"name": "name"}),
    "Blob.set_xattr": lambda p: (p.blob.set_xattr, {"name": "owner", "value": b"me"}),
    "Blob.remove_xattr": lambda p: (p.blob.remove_xattr, {"name": "name"}),
    "Blob.set_attributes": lambda p: (p.blob.set_attributes, {"xattrs": {"owner": b"me"}}),
    "Blob.snapshot": lambda p: (p.blob.snapshot, {}),
    "Blob.clone": lambda p: (p.snapshot.clone, {}),
    "Blob.set_parent": lambda p: (p.blob.set_parent, {"parent_id": p.snapshot.id}),
    "Blob.rollback": lambda p: (p.blob.rollback, {"snapshot_id": p.snapshot.id}),
    "Blob.set_external_parent": lambda p: (p.blob.set_external_parent, {"external_id": b"golden"}),
    "Blob.shallow_copy": lambda p: (p.snapshot.shallow_copy, {"target": MemoryDevice(SIZE)}),
    "Blob.changed_ranges": lambda p: (p.blob.changed_ranges, {"base": p.snapshot}),
    "Blob.next_allocated": lambda p: (p.blob.next_allocated, {"offset": 0}),
    "Blob.next_unallocated": lambda p: (p.blob.next_unallocated, {"offset": 0}),
    "Blob.next_data": lambda p: (p.blob.next_data, {"offset": 0}),
    "Blob.next_hole": lambda p: (p.blob.next_hole, {"offset": 0}),
    # Volumes
    "VolumeStore.create": lambda p: (
        VolumeStore.create,
        {"source": p.directory / "new.img", "name": "new"},
    ),
    "VolumeStore.open": lambda p: (VolumeStore.open, {"source": p.closed}),
    "VolumeStore.register_external": lambda p: (
        p.volumes.register_external,
        {"external_id": b"golden", "what": ZeroesDevice(SIZE)},
    ),
    "VolumeStore.open_blob": lambda p: (p.volumes.open_blob, {"blob_id": p.volume.id}),
    "VolumeStore.iter_blobs": lambda p: (
        lambda **given: list(p.volumes.iter_blobs(**given)),
        {},
    ),
    "VolumeStore.read_many": lambda p: (
        p.volumes.read_many,
        {"blobs": [p.volume], "offsets": [0], "length": 1},
    ),
    "VolumeStore.rename": lambda p: (p.volumes.rename, {"name": "new"}),
    "VolumeStore.reid": lambda p: (p.volumes.reid, {}),
    "VolumeStore.volume_info": lambda p: (p.volumes.volume_info, {"key": "db"}),
    "VolumeStore.open_volume": lambda p: (p.volumes.open_volume, {"key": "db"}),
    "VolumeStore.volume": lambda p: (p.volumes.volume, {"key": "db"}),
    "VolumeStore.create_volume": lambda p: (p.volumes.create_volume, {"name": "new"}),
    "VolumeStore.delete_volume": lambda p: (p.volumes.delete_volume, {"key": "db"}),
    "Volume.rename": lambda p: (p.volume.rename, {"name": "new"}),
    "Volume.snapshot": lambda p: (p.volume.snapshot, {"name": "new"}),
    "Volume.clone": lambda p: (p.volume.snapshot("s").clone, {"name": "new"}),
    "Volume.set_xattr": lambda p: (p.volume.set_xattr, {"name": "owner", "value": b"me"}),
    "Volume.remove_xattr": lambda p: (p.volume.remove_xattr, {"name": "owner"}),
    "Volume.set_attributes": lambda p: (p.volume.set_attributes, {"xattrs": {"owner": b"me"}}),
    # What is left of a store
    "Rescue.open": lambda p: (Rescue.open, {"source": p.closed}),
    "Rescue.blob": lambda p: (p.rescue.blob, {"blob_id": p.blob.id}),
    "Rescue.register_external": lambda p: (
        p.rescue.register_external,
        {"external_id": b"golden", "what": ZeroesDevice(SIZE)},
    ),
    "RescuedBlob.unreadable": lambda p: (p.rescued().unreadable, {}),
    "RescuedBlob.parts": lambda p: (p.rescued().parts, {}),
    "RescuedBlob.read": lambda p: (p.rescued().read, {"length": 1}),
    "RescuedBlob.read_into": lambda p: (p.rescued().read_into, {"buffer": bytearray(1)}),
}

NO_CALLS_OF_USERS: Final = {
    # Python's own: `io` and `collections.abc` say what a wrong type is there.
    "BlobFile",
    "Xattrs",
    # A value that the library makes.
    "BlobInfo",
    # Called in tests/aio/test_async_wrong_types.py.
    "AsyncBlob",
    "AsyncBlobstore",
    "AsyncVolume",
    "AsyncVolumeStore",
    # A device is called with what the store has checked; its makers say what they take.
    "BlockDevice",
    "Device",
    "FileDevice",
    "MemoryDevice",
    "ZeroesDevice",
}


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


WITH_PARAMETERS: Final = {
    name: parameters(function)
    for name, function in public_callables()
    if parameters(function)
    and name.split(".")[0] not in NO_CALLS_OF_USERS
    and not name.split(".")[0].endswith("Error")
}


def test_every_public_function_with_parameters_is_in_the_table() -> None:
    assert set(WITH_PARAMETERS) == set(CALLS)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [(name, parameter) for name, found in WITH_PARAMETERS.items() for parameter in found],
)
def test_a_wrong_type_is_named_with_what_was_expected_and_changes_nothing(
    place: Place, name: str, parameter: str
) -> None:
    function, given = CALLS[name](place)
    with pytest.raises((TypeError, InvalidArgumentError)) as caught:
        function(**{**given, parameter: object()})
    message = str(caught.value)
    if isinstance(caught.value, InvalidArgumentError):
        message = caught.value.strerror
    assert re.match(rf"{parameter}: expected .*, got ", message), message
    assert place.blob.read(4) == b"kept"
    place.blob.write(b"more", CLUSTER)
    place.blob.set_xattr("usable", b"yes")
    place.blob.flush()
    assert len(place.store.blob_ids()) == 2


WRONG_PARTS: Final[dict[str, tuple[Callable[[Any], object], str]]] = {
    "size": (lambda p: p.blob.resize(1.5), "size: expected int or str, got float"),
    "text for a size": (lambda p: p.blob.resize("x"), "size: expected bytes, .* got 'x'"),
    "negative size": (lambda p: p.store.create_blob(-1), "size: expected 0 or more, got -1"),
    "cluster size": (
        lambda p: Blobstore.create(p.directory / "a", cluster_size="x"),
        "cluster_size: expected bytes, .* got 'x'",
    ),
    "text for an attribute": (
        lambda p: p.blob.snapshot(xattrs={"name": "text"}),
        r"xattrs\['name'\]: expected bytes, got str",
    ),
    "number for a name": (
        lambda p: p.blob.snapshot(xattrs={1: b""}),
        "xattrs: name: expected str, got int",
    ),
    "an item": (lambda p: p.blob.xattrs.update(owner="me"), "value: expected bytes, got str"),
    "read-only buffer": (
        lambda p: p.blob.readv([b"abc"]),
        r"buffers\[0\]: expected a writable buffer, got bytes",
    ),
    "bytes for buffers": (
        lambda p: p.blob.writev(b"abc"),
        "buffers: expected several bytes-like objects, got bytes",
    ),
    "every other byte": (
        lambda p: p.blob.write(memoryview(bytes(9))[::2]),
        "data: expected a contiguous buffer, got one with gaps",
    ),
    "enum": (
        lambda p: p.store.create_blob(clear_method=9),
        "clear_method: expected one of 0, 1, 2, 3, got 9",
    ),
    "mode of a repair": (
        lambda p: blobstore.repair(p.closed, "some"),
        "mode: expected one of 'leaks', 'safe', 'all', got 'some'",
    ),
    "mode of a file": (lambda p: p.blob.open("w"), "mode: expected 'rb' or 'r\\+b', got 'w'"),
}


@pytest.mark.parametrize("slip", WRONG_PARTS)
def test_a_wrong_argument_is_told_in_these_words(place: Place, slip: str) -> None:
    call, message = WRONG_PARTS[slip]
    with pytest.raises((TypeError, InvalidArgumentError), match=message):
        call(place)
