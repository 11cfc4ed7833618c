"""Large writes are written out early, small and direct ones are left alone."""

from pathlib import Path

import pytest

from blobstore import FileDevice
from blobstore.device import write_out
from blobstore.units import KIB, MIB


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The calls of sync_file_range, from two MiB on."""
    calls: list[tuple[int, ...]] = []

    def record(*arguments: int) -> int:
        calls.append(arguments)
        return 0

    monkeypatch.setattr(write_out, "_PORTION", 2 * MIB)
    monkeypatch.setattr(write_out, "_libc_sync_file_range", lambda: record)
    return calls


def write(path: Path, size: int, count: int, *, direct: bool = False) -> None:
    with FileDevice.create(path, 8 * MIB, direct=direct) as device:
        for number in range(count):
            device.write(number * size, [memoryview(bytearray(size))])


def test_every_portion_of_large_writes_is_written_out(
    tmp_path: Path, begun: list[tuple[int, ...]]
) -> None:
    write(tmp_path / "disk.img", MIB, 5)
    assert [arguments[1:] for arguments in begun] == [(0, 0, 2)] * 2


@pytest.mark.parametrize(("size", "direct"), [(64 * KIB, False), (MIB, True)])
def test_small_and_direct_writes_are_left_alone(
    tmp_path: Path, begun: list[tuple[int, ...]], size: int, direct: bool
) -> None:
    write(tmp_path / "disk.img", size, 4 * MIB // size, direct=direct)
    assert begun == []


def test_the_call_is_one_that_the_host_knows(tmp_path: Path) -> None:
    call = write_out._libc_sync_file_range()
    if call is None:
        pytest.skip("no sync_file_range here")
    with (tmp_path / "file").open("wb") as file:
        assert call(file.fileno(), 0, 0, 2) == 0
