"""Everything that is measured, by name."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks import (
    batches,
    copying,
    data_path,
    databases,
    memory,
    metadata,
    nbd,
    opening,
    rpc,
    snapshots,
    streams,
    tasks,
)
from benchmarks.curve import Curve
from benchmarks.measure import Row
from benchmarks.scale import Scale

Group: TypeAlias = Callable[[Path, Scale], Iterable[Row | Curve]]

GROUPS: Final[dict[str, Group]] = {
    "cached": data_path.cached_rows,
    "clone": data_path.clone_rows,
    "direct": data_path.direct_rows,
    "tasks": tasks.rows,
    "batches": batches.cached_rows,
    "batches-direct": batches.direct_rows,
    "import": copying.rows,
    "thin": data_path.thin_rows,
    "copy": snapshots.copy_rows,
    "durable": metadata.durable_rows,
    "snapshot": snapshots.snapshot_rows,
    "stream": streams.rows,
    "opening": opening.cached_rows,
    "opening-uncached": opening.uncached_rows,
    "memory": memory.rows,
    "startup": metadata.startup_rows,
    "rpc": rpc.rows,
    "nbd": nbd.rows,
    "databases": databases.rows,
    "opening-curves": opening.curves,
    "memory-curve": memory.curves,
    "snapshot-curves": snapshots.curves,
    "stream-curves": streams.curves,
}


def measure(name: str, directory: Path, scale: Scale) -> list[Row | Curve]:
    """Measure one group, with a directory of its own for its files."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as scratch:
        return list(GROUPS[name](Path(scratch), scale))
