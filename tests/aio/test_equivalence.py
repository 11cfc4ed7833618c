"""The same script in both colours gives the same bytes and the same image."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore import AsyncBlob, AsyncBlobstore, Blob, Blobstore, BlobstoreError
from blobstore.units import KIB, MIB
from tests.aio.loops import no_ring, run

CLUSTER: Final = 4 * KIB
BLOB_CLUSTERS: Final = 6
SIZE: Final = BLOB_CLUSTERS * CLUSTER
OFFSETS: Final = st.integers(-1, SIZE + 1) | st.sampled_from(range(0, SIZE + 1, CLUSTER))
LENGTHS: Final = st.integers(0, 2 * CLUSTER) | st.sampled_from([1, 512, CLUSTER, 3 * CLUSTER])
DATA: Final = st.builds(lambda value, length: bytes([value]) * length, st.integers(1, 255), LENGTHS)
CALLS: Final = st.one_of(
    st.tuples(st.just("write"), DATA, OFFSETS),
    st.tuples(st.just("writev"), st.lists(DATA, max_size=3), OFFSETS),
    st.tuples(st.just("read"), LENGTHS, OFFSETS),
    st.tuples(st.sampled_from(["write_zeroes", "unmap"]), OFFSETS, LENGTHS),
    st.tuples(st.just("resize"), st.integers(0, BLOB_CLUSTERS).map(lambda count: count * CLUSTER)),
    st.tuples(st.just("set_xattr"), st.sampled_from("ab"), DATA),
    st.tuples(st.sampled_from(["flush", "inflate", "decouple", "snapshot"])),
    st.tuples(st.just("use"), st.integers(0, 2)),
)
SCRIPTS: Final = st.lists(CALLS, max_size=25)

DEVICES: Final[dict[str, dict[str, Any]]] = {
    "file": {},
    "direct": {"direct": True},
    "write_through": {"write_through": True},
    "memory": {},
    "file without a ring": {},
    "direct without a ring": {"direct": True},
}


def source_of(kind: str, directory: str, name: str) -> str:
    return f"memory:{MIB}" if kind == "memory" else str(Path(directory, name))


def options_of(kind: str) -> dict[str, Any]:
    size = {} if kind == "memory" else {"size": MIB}
    return {"cluster_size": CLUSTER, "md_pages": 64, **size, **DEVICES[kind]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEVICES)
@settings(max_examples=25)
@given(script=SCRIPTS)
def test_a_script_gives_the_same_bytes_and_the_same_image_in_both_colours(
    kind: str, script: Sequence[tuple[Any, ...]]
) -> None:
    without_ring = no_ring() if kind.endswith("without a ring") else nullcontext()
    with TemporaryDirectory() as directory, without_ring:
        first, second = (source_of(kind, directory, name) for name in ("first", "second"))
        assert blocking_outcomes(first, kind, script) == run(outcomes(second, kind, script))
        if kind != "memory":
            assert Path(first).read_bytes() == Path(second).read_bytes()


def blocking_outcomes(source: str, kind: str, script: Sequence[tuple[Any, ...]]) -> list[object]:
    with Blobstore.create(source, **options_of(kind)) as store:
        blobs = [store.create_blob(SIZE, thin=True)]
        found: list[object] = []
        for name, *arguments in script:
            blob: Blob = blobs[-1]
            if name == "use":
                blobs.append(blobs[arguments[0] % len(blobs)])
                continue
            try:
                result = getattr(blob, name)(*arguments)
            except BlobstoreError as error:
                result = type(error), error.errno, error.blob
            if isinstance(result, Blob):
                blobs.append(result.clone())
                result = blobs[-1].info
            found.append(result)
        found += [blob.read(blob.size) for blob in blobs]
        return [*found, *store.list_blobs(), store.info, store.used_clusters(), store.dump()]


async def outcomes(source: str, kind: str, script: Sequence[tuple[Any, ...]]) -> list[object]:
    async with AsyncBlobstore.create(source, **options_of(kind)) as store:
        blobs = [await store.create_blob(SIZE, thin=True)]
        found: list[object] = []
        for name, *arguments in script:
            blob: AsyncBlob = blobs[-1]
            if name == "use":
                blobs.append(blobs[arguments[0] % len(blobs)])
                continue
            try:
                result = await getattr(blob, name)(*arguments)
            except BlobstoreError as error:
                result = type(error), error.errno, error.blob
            if isinstance(result, AsyncBlob):
                blobs.append(await result.clone())
                result = blobs[-1].info
            found.append(result)
        found += [await blob.read(blob.size) for blob in blobs]
        found += [info async for info in store.list_blobs()]
        return [*found, store.info, store.used_clusters(), await store.dump()]
