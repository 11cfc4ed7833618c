"""What the fuzzer does with an input: everything that a user does with a damaged image.

It is imported under atheris's instrumentation, and without it by whoever tries
a file again.
"""

import hashlib
import re
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from blobstore.api.blobstore import Blobstore, dump
from blobstore.drivers.blocking import BlockingDriver
from blobstore.errors import BlobstoreError
from blobstore.format.page import PAGE_SIZE
from blobstore.fsck.examine import examine
from blobstore.metadata.store_state import DeviceTraits
from blobstore.units import MIB
from tests.proof.forge import Forge
from tests.proof.hostile_blobs import HOSTILE_BLOBS
from tests.proof.mutate import DEVICE_SIZE, LARGEST_INPUT, SmallImage
from tests.proof.observe import HangError, observe, time_limit
from tests.proof.small_stores import small_stores

_EXPENSIVE: Final = re.compile(r"bomb|largest|2\^22|2\^31")
_LARGER: Final = re.compile(r"1000 |500 pages|450 extent|every huge")
_MOST_MEMORY: Final = 64 * MIB + 2 * DEVICE_SIZE


class MemoryBoundError(Exception):
    """An image cost more memory than any of its size may."""


def _read_only(image: SmallImage) -> None:
    with Blobstore.open(image.device(read_only=True), read_only=True) as store:
        for _entry in store.list_blobs():
            pass
        observe(store)


def _check(image: SmallImage) -> None:
    device = image.device(read_only=True)
    traits = DeviceTraits(device.size_bytes, atomic_write_size=device.atomic_write_size)
    for _finding in BlockingDriver(device).run(examine(traits)).findings:
        pass


def _dump(image: SmallImage) -> None:
    dump(image.device(read_only=True))


def _change(image: SmallImage) -> None:
    with Blobstore.open(image.device(read_only=False)) as store:
        with suppress(BlobstoreError), store.create_blob(store.cluster_size) as blob:
            blob.write(b"new")
        for blob_id in store.blob_ids()[:3]:
            with suppress(BlobstoreError), store.open_blob(blob_id) as blob:
                blob.set_xattr("seen", b"yes")
                blob.write(b"x")
            with suppress(BlobstoreError):
                store.delete_blob(blob_id)


_STEPS: Final[tuple[Callable[[SmallImage], None], ...]] = (_read_only, _check, _dump, _change)


def try_input(data: bytes) -> None:
    """Do all that with the image that the input stands for.

    Raises:
        HangError: It took too long.
        MemoryBoundError: It took too much memory.
        Exception: Any other is a failure too; errors of the package are none.
    """
    image = SmallImage.unpack(data)
    before = _peak_bytes()
    for step in _STEPS:
        with time_limit(), suppress(BlobstoreError):
            step(image)
    grown = _peak_bytes() - before
    if grown > _MOST_MEMORY:
        raise MemoryBoundError(f"{grown // MIB} MiB")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Finder:
    """Tries inputs, and keeps one file for each place where one did harm."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.places: set[str] = set()

    def __call__(self, data: bytes) -> None:
        # libFuzzer's own alarm counts what others take of the machine, too; `time_limit` does not.
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            try_input(data)
        except (Exception, HangError) as error:
            self._keep(data, error)

    def _keep(self, data: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/testing/" not in f.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        place = type(error).__name__ if isinstance(error, HangError) else where
        if place in self.places:
            return
        self.places.add(place)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"found-{hashlib.sha256(data).hexdigest()[:16]}"
        path.write_bytes(data)
        print(f"FOUND {type(error).__name__} at {where}: {error}\n    {path}", flush=True)


@cache
def seeds() -> Sequence[bytes]:
    """Return inputs to begin with: small stores, and hostile ones of the same size.

    Those that are only expensive are left out: they and all that come of them
    would take the time of a thousand others. Larger images are not made at all.
    """
    found = [
        SmallImage.of(store.image, compact=store.atomic_write_size == PAGE_SIZE).pack()
        for store in small_stores()
    ]
    for name, build in HOSTILE_BLOBS.items():
        if _EXPENSIVE.search(name) or _LARGER.search(name):
            continue
        for clean in (True, False):
            forge = Forge(md_len=40, cluster_count=48, clean=clean)
            build(forge)
            if forge.md_len == 40 and forge.cluster_count == 48:
                device = forge.device(read_only=True)
                found.append(SmallImage.of(device.read(0, device.size_bytes), compact=True).pack())
    return [seed for seed in found if len(seed) <= LARGEST_INPUT]
