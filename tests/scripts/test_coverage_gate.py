"""The coverage gate: which reports pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.coverage_gate import FileCoverage, main, read_report, render, sum_layers


def file_entry(
    *, lines: int, missing_lines: list[int], branches: int = 0, missing_branches: int = 0
) -> dict[str, Any]:
    return {
        "summary": {
            "num_statements": lines,
            "covered_lines": lines - len(missing_lines),
            "num_branches": branches,
            "covered_branches": branches - missing_branches,
        },
        "missing_lines": missing_lines,
        "missing_branches": [[10, -1]] * missing_branches,
    }


def complete_report() -> dict[str, Any]:
    return {
        "meta": {"branch_coverage": True},
        "files": {
            "src/blobstore/alloc/pool.py": file_entry(lines=10, missing_lines=[], branches=4),
            "src/blobstore/format/page.py": file_entry(lines=10, missing_lines=[]),
            "src/blobstore/metadata/load_store.py": file_entry(lines=95, missing_lines=[]),
            "src/blobstore/store/open.py": file_entry(lines=10, missing_lines=[1, 2, 3]),
        },
    }


def run(report: dict[str, Any], directory: Path) -> int:
    path = directory / "coverage.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    return main([str(path)])


def test_full_coverage_of_the_required_layers_passes_whatever_the_others_miss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(complete_report(), tmp_path) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == [
        "layer",
        "format",
        "alloc",
        "metadata",
    ]


def test_one_branch_not_taken_fails_a_layer_that_needs_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = complete_report()
    report["files"]["src/blobstore/alloc/pool.py"] = file_entry(
        lines=10, missing_lines=[], branches=4, missing_branches=1
    )
    assert run(report, tmp_path) == 1
    assert "alloc/pool.py: missed lines none; branches 10->exit" in capsys.readouterr().out


def test_all_but_one_in_a_hundred_thousand_is_not_rounded_up_to_all() -> None:
    file = FileCoverage("src/blobstore/format/page.py", 100_000, 99_999, (7,), ())
    (layer,) = sum_layers([file], {"format": 100})
    assert not layer.passes
    assert "100.00 %" in render([layer])


@pytest.mark.parametrize(
    ("missing_count", "passes"),
    [pytest.param(5, True, id="exactly 95 %"), pytest.param(6, False, id="one line less")],
)
def test_a_layer_passes_at_its_threshold_and_fails_below(missing_count: int, passes: bool) -> None:
    report = complete_report()
    report["files"]["src/blobstore/metadata/load_store.py"] = file_entry(
        lines=100, missing_lines=list(range(missing_count))
    )
    assert sum_layers(read_report(report))[2].passes is passes


def test_files_of_a_layer_are_summed_and_a_module_counts_as_a_layer() -> None:
    files = [
        FileCoverage("src/blobstore/format/page.py", 10, 10, (), ()),
        FileCoverage("src/blobstore/format/deep/page.py", 30, 29, (1,), ()),
        FileCoverage("src/blobstore/units.py", 5, 5, (), ()),
        FileCoverage("elsewhere/format/page.py", 7, 0, (), ()),
    ]
    layers = sum_layers(files, {"format": 90, "units": 100})
    assert [(layer.target_count, layer.covered_count) for layer in layers] == [(40, 39), (5, 5)]


def test_a_layer_that_was_not_measured_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = complete_report()
    del report["files"]["src/blobstore/format/page.py"]
    assert run(report, tmp_path) == 1
    assert "format: no file of this layer was measured" in capsys.readouterr().out


def test_a_report_without_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="no branch coverage"):
        read_report({"meta": {"branch_coverage": False}, "files": {}})


@pytest.mark.parametrize("arguments", [[], ["no/such/report.json"], ["a", "b"]])
def test_without_one_report_it_is_a_usage_error(arguments: list[str]) -> None:
    assert main(arguments) == 2
