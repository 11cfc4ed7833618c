"""What differs between a device and an overlay on it, block by block; and sums of what does not."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

from blobstore.device.base import Device
from blobstore.device.overlay import BLOCK_SIZE, OverlayDevice
from blobstore.errors import DeviceError
from blobstore.format.super_block import SUPER_BLOCK_SIZE
from blobstore.fsck.undo_file import RECORD_MAX, Range, Step, surrounding_sum

assert RECORD_MAX % BLOCK_SIZE == 0


def differing(
    device: Device, overlay: OverlayDevice, metadata_end: int
) -> Iterator[tuple[Step, int, int]]:
    """Yield (step, offset, length) of the blocks after page 0 that differ.

    They are merged up to a record's size; none is of metadata and clusters.
    """
    for start, length in overlay.changed_ranges():
        end = start + length
        at = max(start, SUPER_BLOCK_SIZE)
        while at < end:
            stop = metadata_end if at < metadata_end else end
            size = min(RECORD_MAX, end - at, stop - at)
            is_metadata = at < metadata_end
            for step, first, last in _runs(device, overlay, at, size, is_metadata=is_metadata):
                yield step, at + first, last - first
            at += size


def _runs(
    device: Device, overlay: OverlayDevice, offset: int, length: int, *, is_metadata: bool
) -> Iterator[tuple[Step, int, int]]:
    """Yield (step, start, end) of what differs, in whole blocks; what cannot be read does."""
    old, unreadable = read_blocks(device, offset, length)
    new = overlay.read(offset, length)

    def step_of(at: int) -> Step | None:
        before, after = old[at : at + BLOCK_SIZE], new[at : at + BLOCK_SIZE]
        if before == after and at not in unreadable:
            return None
        if not is_metadata:
            return Step.ADD
        return Step.of(is_empty=not any(before), becomes_empty=not any(after))

    for step, run in groupby(range(0, length, BLOCK_SIZE), key=step_of):
        if step is not None:
            blocks = list(run)
            yield step, blocks[0], min(blocks[-1] + BLOCK_SIZE, length)


def read_blocks(device: Device, offset: int, length: int) -> tuple[bytearray, set[int]]:
    """Read a range; blocks that cannot be read are zero, and there is no way back to them."""
    try:
        return bytearray(device.read(offset, length)), set()
    except DeviceError:
        pass
    content = bytearray(length)
    unreadable: set[int] = set()
    for at in range(0, length, BLOCK_SIZE):
        size = min(BLOCK_SIZE, length - at)
        try:
            content[at : at + size] = device.read(offset + at, size)
        except DeviceError:
            unreadable.add(at)
    return content, unreadable


def surroundings(device: Device, metadata_end: int, ranges: Sequence[Range]) -> Iterator[int]:
    """Yield the sum of each MiB of metadata without the ranges; holes are not read."""
    data_at = 0
    for at in range(0, metadata_end, RECORD_MAX):
        length = min(RECORD_MAX, metadata_end - at)
        data_at = max(data_at, at)
        if data_at == at:
            data_at = device.next_data(at)
        if data_at < at + length:
            content, _unreadable = read_blocks(device, at, length)
            yield surrounding_sum(content, at, ranges)
        else:
            yield _sum_of_hole(length)


@cache
def _sum_of_hole(length: int) -> int:
    return surrounding_sum(bytearray(length), 0, ())
