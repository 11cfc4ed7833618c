"""Every trace of the original: long random scripts, with its answer to each line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.test_load import documented_rows
from tests.replay import COMPACT, SECTOR
from tests.shared import CHECKOUT
from tests.traces.comparison import compare, read_trace, trace_files

ROWS = {
    "delete-clears-super",
    "free-after-commit",
    "shrink-is-final",
    "snapshot-without-clones",
    "table-that-did-not-fit",
    "write-through-syncs",
    "zeroed-clusters",
}
# Roots hold less there, so chains are longer, and one trace comes to the end of its pages.
SECTOR_ROWS = {"promised-pages", "sector-layout"}


def test_there_are_traces() -> None:
    assert len(trace_files()) == 24


@pytest.mark.parametrize("path", trace_files(), ids=lambda path: path.stem)
def test_every_line_of_a_trace_is_answered_as_by_the_original(path: Path) -> None:
    verdict = compare(path, atomic_write_size=COMPACT)
    assert [str(mismatch) for mismatch in verdict.mismatches] == []
    assert verdict.lines == len(read_trace(path)["script"])
    assert set(verdict.rows) <= ROWS


@pytest.mark.parametrize("path", trace_files(), ids=lambda path: path.stem)
def test_on_a_device_with_sectors_only_the_chains_differ(path: Path) -> None:
    verdict = compare(path, atomic_write_size=SECTOR)
    assert [str(mismatch) for mismatch in verdict.mismatches] == []
    assert set(verdict.rows) <= ROWS | SECTOR_ROWS


def test_every_difference_in_a_trace_is_a_row_of_the_document() -> None:
    tested = {row for row, test in documented_rows().items() if Path(__file__).name in test}
    assert tested <= ROWS
    assert set(documented_rows()) >= ROWS | SECTOR_ROWS


def test_the_program_tells_what_it_found_and_exits_with_1_where_a_trace_disagrees(
    tmp_path: Path,
) -> None:
    trace = read_trace(trace_files()[0])
    changed = [{**answer, "rc": -1} for answer in trace["results"][:4]]
    broken = {**trace, "script": trace["script"][:4], "results": changed}
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    for path, code, words in (
        (trace_files()[0], 0, "agreed: 1 of 1"),
        (tmp_path / "broken.json", 1, "rc: 0, expected -1"),
    ):
        command = [sys.executable, "-m", "tests.replay", str(path)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert (done.returncode, words in done.stdout) == (code, True)
