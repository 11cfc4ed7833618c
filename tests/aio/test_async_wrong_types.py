"""A wrong type for any parameter of the asyncio facade is an error that names the parameter."""

import inspect
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from blobstore import (
    AsyncBlobstore,
    AsyncVolumeStore,
    Blobstore,
    InvalidArgumentError,
    MemoryDevice,
)
from tests.aio.loops import run
from tests.api.test_wrong_types import CALLS, CLUSTER, SIZE, WITH_PARAMETERS

FACADE: Final = ("Blob.", "Blobstore.", "Volume.", "VolumeStore.")
BLOCKING_ONLY: Final = ("Blob.open",)


class AsyncPlace:
    """What `Place` of the blocking table is, on an event loop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.closed = directory / "closed.img"
        Blobstore.create(self.closed, size=SIZE, cluster_size=CLUSTER).close()

    async def open(self) -> None:
        path = self.directory / "disk.img"
        self.store = await AsyncBlobstore.create(path, size=SIZE, cluster_size=CLUSTER)
        self.blob = await self.store.create_blob(4 * CLUSTER, thin=True, name="vol0")
        await self.blob.write(b"kept")
        self.snapshot = await self.blob.snapshot(name="monday")
        device = MemoryDevice(SIZE)
        self.volumes = await AsyncVolumeStore.create(device, name="vms", cluster_size=CLUSTER)
        self.volume = await self.volumes.create_volume("db", CLUSTER, thin=True)

    async def close(self) -> None:
        await self.volumes.close()
        await self.store.close()


async def clone_of_a_snapshot(place: AsyncPlace, **given: Any) -> None:
    await (await place.volume.snapshot("s")).clone(**given)


async def all_of(blobs: AsyncIterator[object]) -> None:
    async for _blob in blobs:
        pass


async def called(function: Callable[..., Any], given: dict[str, Any]) -> None:
    result = function(**given)
    if inspect.isawaitable(result):
        await result


Call = Callable[[AsyncPlace], tuple[Callable[..., Any], dict[str, Any]]]

OTHER_CALLS: Final[dict[str, Call]] = {
    "Blobstore.create": lambda p: (AsyncBlobstore.create, {"source": p.directory / "new.img"}),
    "Blobstore.open": lambda p: (AsyncBlobstore.open, {"source": p.closed}),
    "Blobstore.iter_blobs": lambda p: (
        lambda **given: all_of(p.store.iter_blobs(**given)),
        {},
    ),
    "VolumeStore.create": lambda p: (
        AsyncVolumeStore.create,
        {"source": p.directory / "new.img", "name": "new"},
    ),
    "VolumeStore.open": lambda p: (AsyncVolumeStore.open, {"source": p.closed}),
    "VolumeStore.iter_blobs": lambda p: (
        lambda **given: all_of(p.volumes.iter_blobs(**given)),
        {},
    ),
    "Volume.clone": lambda p: (
        lambda **given: clone_of_a_snapshot(p, **given),
        {"name": "new"},
    ),
}
"""Calls that are not spelled as those of the blocking table are."""


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        (name, parameter)
        for name, found in WITH_PARAMETERS.items()
        if name.startswith(FACADE) and name not in BLOCKING_ONLY
        for parameter in found
    ],
)
def test_a_wrong_type_is_named_with_what_was_expected_and_changes_nothing(
    tmp_path: Path, name: str, parameter: str
) -> None:
    async def main() -> None:
        place: Any = AsyncPlace(tmp_path)
        await place.open()
        function, given = (OTHER_CALLS.get(name) or CALLS[name])(place)
        with pytest.raises((TypeError, InvalidArgumentError)) as caught:
            await called(function, {**given, parameter: object()})
        message = str(getattr(caught.value, "strerror", caught.value))
        assert re.match(rf"{parameter}: expected .*, got ", message), message
        assert await place.blob.read(4) == b"kept"
        await place.blob.set_xattr("usable", b"yes")
        await place.blob.flush()
        assert len(place.store.blob_ids()) == 2
        await place.close()

    run(main())
