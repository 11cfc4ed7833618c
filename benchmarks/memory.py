"""What open blobs take of memory, by what Python allocated for them."""

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.curve import Axis, Curve, Series
from benchmarks.images import ManyBlobs, write_dirty_image
from benchmarks.measure import Goal, Row
from benchmarks.scale import Scale
from blobstore import Blobstore
from blobstore.units import KIB, MIB

_SMALL: Final = 8
_LARGE: Final = 512
_BLOB_COUNT: Final = 1000


def rows(directory: Path, _scale: Scale) -> Iterator[Row]:
    """A thousand blobs of few clusters each."""
    path = directory / "memory.img"
    for clusters in (_SMALL, _LARGE):
        _write_image(path, _BLOB_COUNT + 1, clusters)
        each = _growth(path, [_BLOB_COUNT])[0] / _BLOB_COUNT
        path.unlink()
        allowed = _allowed(clusters)
        yield Row(
            f"memory per open blob of {clusters} clusters",
            "1 KiB + 4 bytes per cluster",
            f"{each:.0f} bytes",
            f"{allowed} bytes",
            each / allowed,
            Goal(1.0, at_most=True),
        )


def curves(directory: Path, scale: Scale) -> Iterator[Curve]:
    path = directory / "memory.img"
    counts = scale.open_counts
    series: list[Series] = []
    for clusters in (_LARGE, _SMALL):
        _write_image(path, counts[-1] + 1, clusters)
        taken = tuple(each / MIB for each in _growth(path, list(counts)))
        path.unlink()
        allowed = tuple(count * _allowed(clusters) / MIB for count in counts)
        series.append(Series(f"{clusters} clusters each", taken))
        series.append(Series(f"allowed for {clusters}", allowed, is_reference=True))
    yield Curve(
        name="memory-by-open-blobs",
        title="Memory, by open blobs",
        says="What Python allocated for them; allowed are 1 KiB and 4 bytes per cluster each.",
        x=Axis("open blobs"),
        y=Axis("MiB"),
        sizes=counts,
        series=tuple(series),
    )


def _write_image(path: Path, blob_count: int, clusters: int) -> None:
    write_dirty_image(path, ManyBlobs(blob_count, 2 * blob_count, clusters))


def _growth(path: Path, counts: list[int]) -> list[int]:
    """Return the bytes that so many open blobs take, beyond the first one."""
    grown: list[int] = []
    with Blobstore.open(path, read_only=True) as store:
        ids = store.blob_ids()
        kept = [store.open_blob(ids.pop())]
        gc.collect()
        tracemalloc.start()
        before, _peak = tracemalloc.get_traced_memory()
        for count in counts:
            kept += [store.open_blob(ids.pop()) for _ in range(count + 1 - len(kept))]
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
        tracemalloc.stop()
    return grown


def _allowed(clusters: int) -> int:
    return KIB + 4 * clusters
