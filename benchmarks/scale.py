"""How much is measured: all of it, or a look at it in less than a minute."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts for the rows, then the sizes of the curves."""

    rounds: int = 5
    requests: int = 150_000
    direct_requests: int = 3_000
    large_requests: int = 2_000
    thin_clusters: int = 1_024
    copied_clusters: int = 128
    copied_mib: int = 1_024
    durable_calls: int = 200
    snapshots: int = 20
    stream_mib: int = 1_024
    values: int = 16_384
    value_requests: int = 20_000
    durable_values: int = 100
    metadata_pages: int = 100_000
    blobs: int = 10_000
    uncached_pages: int = 25_000

    page_counts: tuple[int, ...] = (5_000, 10_000, 20_000, 50_000, 100_000)
    store_sizes_gib: tuple[int, ...] = (16, 64, 256, 1_024)
    open_counts: tuple[int, ...] = (1_000, 2_000, 3_000, 4_000, 5_000)
    extent_counts: tuple[int, ...] = (64, 256, 1_024, 4_096, 16_384)
    changed_mib: tuple[int, ...] = (1, 4, 16, 64)
    depths: tuple[int, ...] = (1, 16, 32, 64, 128, 256)


QUICK: Final = Scale(
    rounds=3,
    requests=20_000,
    direct_requests=300,
    large_requests=200,
    thin_clusters=256,
    copied_clusters=32,
    copied_mib=128,
    durable_calls=25,
    snapshots=3,
    stream_mib=256,
    values=4_096,
    value_requests=10_000,
    durable_values=20,
    metadata_pages=20_000,
    blobs=2_000,
    uncached_pages=5_000,
    page_counts=(2_000, 4_000, 8_000, 16_000),
    store_sizes_gib=(16, 64, 256, 1_024),
    open_counts=(200, 400, 600, 800),
    extent_counts=(16, 64, 256, 1_024),
    depths=(1, 8, 16, 32),
)
