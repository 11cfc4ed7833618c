"""Batches under asyncio give what single requests give."""

from pathlib import Path
from typing import Final

import numpy as np
import pytest

from blobstore import AsyncBlobstore, InvalidArgumentError
from blobstore.units import KIB
from tests.aio.loops import run

CLUSTER: Final = 64 * KIB
LENGTH: Final = 512
COUNT: Final = 500


@pytest.mark.parametrize("direct", [False, True])
def test_a_batch_reads_what_a_batch_has_written(tmp_path: Path, direct: bool) -> None:
    async def main() -> None:
        path = tmp_path / "disk.img"
        making = AsyncBlobstore.create(path, size="8MiB", cluster_size=CLUSTER, direct=direct)
        async with making as store:
            first = await store.create_blob(8 * CLUSTER, thin=True)
            second = await store.create_blob(8 * CLUSTER)
            offsets = np.random.default_rng(1).permutation(8 * CLUSTER // LENGTH)[:COUNT] * LENGTH
            data = np.random.default_rng(2).integers(0, 256, (COUNT, LENGTH), np.uint8)
            for blob in (first, second):
                assert await blob.write_many(offsets, data) == data.nbytes
                assert (await blob.read_many(offsets, LENGTH) == data).all()
            for number in range(0, COUNT, 50):
                row = await first.read(LENGTH, int(offsets[number]))
                assert row == data[number].tobytes()
            snapshot = await first.snapshot()
            await first.write(b"x" * LENGTH, int(offsets[0]))
            blobs = [snapshot, first] * (COUNT // 2)
            assert (await store.read_many(blobs, offsets, LENGTH) == data).all()

    run(main())


def test_a_range_outside_of_its_blob_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "disk.img"
        async with AsyncBlobstore.create(path, size="8MiB", cluster_size=CLUSTER) as store:
            blob = await store.create_blob(CLUSTER)
            with pytest.raises(InvalidArgumentError, match="outside of 65536 bytes") as caught:
                await blob.write_many([0, CLUSTER], b"x" * 1024)
            assert caught.value.request == 1
            assert await blob.read(1024) == bytes(1024)
            with pytest.raises(InvalidArgumentError, match="expected one for each of 2"):
                await store.read_many([blob], [0, 512], 512)

    run(main())
