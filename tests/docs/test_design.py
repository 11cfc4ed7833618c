import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from blobstore import Blobstore
from blobstore.device.memory import MemoryDevice
from blobstore.operations import Buffer

DESIGN: Final = (Path(__file__).parents[2] / "docs" / "DESIGN.md").read_text()
PROGRAM: Final = re.search(r"```python\n(with Blobstore\.create.*?)```", DESIGN, re.DOTALL)
DUMPS: Final = re.findall(r"""```hex title="After (\d) flush\w*"\n(.*?)```""", DESIGN, re.DOTALL)
LINE: Final = re.compile(r"([0-9A-F]{5})  ((?:[0-9A-F]{2} +)*[0-9A-F]{2})(?:   .*)?")


class Recorder(MemoryDevice):
    """Keeps what it holds before the first write of data, and after each flush that follows."""

    def __init__(self) -> None:
        super().__init__(4 << 20)
        self.states: list[bytes] = []

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        if not self.states and bytes(buffers[0]) == b"hello":
            self.states.append(self.read(0, self.size_bytes))
        super().write(offset, buffers)

    def flush(self) -> None:
        super().flush()
        if self.states:
            self.states.append(self.read(0, self.size_bytes))


@pytest.fixture(scope="module")
def states() -> list[bytes]:
    assert PROGRAM is not None
    device = Recorder()
    exec(PROGRAM[1], {"Blobstore": Blobstore, "device": device})
    return device.states


@pytest.mark.parametrize(("flushes", "dump"), DUMPS)
def test_the_bytes_in_the_design_are_those_on_the_device(
    states: list[bytes], flushes: str, dump: str
) -> None:
    lines = dump.splitlines()
    assert lines
    for line in lines:
        found = LINE.fullmatch(line)
        assert found is not None, line
        at, expected = int(found[1], 16), bytes.fromhex(found[2])
        assert states[int(flushes)][at : at + len(expected)] == expected, line


def test_every_figure_of_the_design_is_there() -> None:
    figures = re.findall(r"!\[.*?\]\((.*?)\)", DESIGN)
    assert len(figures) >= 3
    for figure in figures:
        assert (Path(__file__).parents[2] / "docs" / figure).read_text().startswith("<svg")


def test_all_steps_of_the_walk_are_checked() -> None:
    assert [int(flushes) for flushes, _dump in DUMPS] == [0, 1, 2, 4, 5, 6]
