"""`bench`: how fast a store is on the user's own device, measured with a blob of its own."""

import mmap
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import click

from blobstore import Blob, NoSpaceError
from blobstore.cli import store_kinds
from blobstore.cli.blob_lookup import delete_blob
from blobstore.cli.interruption import making_blobs
from blobstore.cli.options import StoreOptions, size, store_command
from blobstore.cli.output import print_result
from blobstore.cli.progress import progress
from blobstore.units import KIB, MIB, format_size

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SMALL: Final = 4 * KIB
_AT_ONCE: Final = 256
_BEFORE_A_LOOK: Final = 16
"""Single requests between two looks at the clock."""


@store_command("bench", changes=True)
@click.option(
    "--size", "length", type=size, default="64MiB", show_default=True, help="Of the blob."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 600),
    default=2.0,
    show_default=True,
    help="How long each kind of request is measured.",
)
def command(options: StoreOptions, *, length: int, seconds: float) -> None:
    """Measure how fast reads, writes and flushes are on this device.

    The measurement uses a new thick blob, which is deleted again. Nothing else in
    the store changes. Without --direct, reads come from the page cache.
    """
    length = max(length, MIB * 4) // MIB * MIB
    with making_blobs(options) as store:
        name = f"bench-{secrets.token_hex(4)}"
        with _made(store, name, length) as blob:
            rows = _measured(blob, length, seconds)
        delete_blob(store, blob.id)
    fields = {"size": length, "direct": options.direct, "rows": rows}
    print_result(fields, _text_of(rows), as_json=options.as_json)


def _made(store: store_kinds.AnyStore, name: str, length: int) -> Blob:
    try:
        return store_kinds.create_blob(store, name, length, thin=False)
    except NoSpaceError as error:
        error.add_note(f"the blob has {format_size(length)}: --size sets another size")
        raise


def page_aligned(size_bytes: int) -> memoryview:
    """Return memory that direct I/O takes as it is: other memory would be copied once more."""
    return memoryview(mmap.mmap(-1, size_bytes))


def _measured(blob: Blob, length: int, seconds: float) -> list[dict[str, object]]:
    piece = page_aligned(MIB)
    piece[:] = secrets.token_bytes(MIB)
    for offset in range(0, length, MIB):
        blob.write(piece, offset)
    blob.flush()
    works = list(_works(blob, length, piece))
    rows: list[dict[str, object]] = []
    with progress("bench", len(works), is_bytes=False) as advance:
        for work, request_bytes, run in works:
            rows.append(_row(work, request_bytes, run, seconds))
            advance(1)
    return rows


Run = Callable[[], int]
"""Makes some requests, and returns how many."""


def _works(blob: Blob, length: int, piece: memoryview) -> Iterator[tuple[str, int, Run]]:
    """Yield what is measured, the bytes of a request, and what makes some requests."""
    import numpy as np

    chance = np.random.default_rng()
    small = piece[:_SMALL]
    rows = np.frombuffer(piece, np.uint8).reshape(-1, _SMALL)[:_AT_ONCE]
    in_order = iter(_round_and_round(length))

    def places(count: int) -> "npt.NDArray[np.int64]":
        return chance.integers(0, length // _SMALL, count) * _SMALL

    def one_by_one(call: Callable[[memoryview, int], object]) -> Run:
        return lambda: sum(1 for at in places(_BEFORE_A_LOOK).tolist() if call(small, at))

    def durably() -> int:
        blob.write(small, int(places(1)[0]))
        blob.flush()
        return 1

    yield "random read, 4 KiB", _SMALL, one_by_one(blob.read_into)
    yield (
        "random read, 4 KiB, 256 at once",
        _SMALL,
        lambda: len(blob.read_many(places(_AT_ONCE), _SMALL, rows)),
    )
    yield "random write, 4 KiB", _SMALL, one_by_one(blob.write)
    yield (
        "random write, 4 KiB, 256 at once",
        _SMALL,
        lambda: blob.write_many(places(_AT_ONCE), rows) // _SMALL,
    )
    yield "sequential read, 1 MiB", MIB, lambda: blob.read_into(piece, next(in_order)) // MIB
    yield "sequential write, 1 MiB", MIB, lambda: blob.write(piece, next(in_order)) // MIB
    yield "write of 4 KiB and flush", _SMALL, durably


def _round_and_round(length: int) -> Iterator[int]:
    while True:
        yield from range(0, length, MIB)


def _row(work: str, request_bytes: int, run: Run, seconds: float) -> dict[str, object]:
    run()  # warms up
    count, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds or not count:
        count += run()
    return {
        "work": work,
        "requests": count,
        "microseconds": round(passed / count * 1e6, 2),
        "bytes_per_second": int(count * request_bytes / passed),
    }


def _text_of(rows: list[dict[str, object]]) -> str:
    lines = [f"{'work':<34}{'us each':>12}{'MiB/s':>12}"]
    for row in rows:
        rate = int(str(row["bytes_per_second"])) / MIB
        lines.append(f"{row['work']:<34}{row['microseconds']:>12}{rate:>12.1f}")
    return "\n".join(lines)
