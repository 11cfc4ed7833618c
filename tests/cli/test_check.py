"""check and undo: what is found, what is repaired, and the statuses of a check."""

import json
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from blobstore import (
    BlobId,
    Blobstore,
    CheckReport,
    DeviceError,
    FileDevice,
    Finding,
    RepairReport,
    Severity,
    repair,
)
from blobstore.cli.report import plan_fields, render_check, render_plan, render_repair
from blobstore.format.super_block import SuperBlock
from blobstore.units import PageIndex
from tests.cli.conftest import Image
from tests.cli.runner import Result, run, run_here, unchanged
from tests.cli.schema import OPTIONAL_ID, UNFINISHED_BLOBS, conforms

FINDING = {
    "invariant": int, "severity": str, "message": str, "blob": OPTIONAL_ID, "page": OPTIONAL_ID,
    "cluster": OPTIONAL_ID,
}  # fmt: skip
PROSPECT = {"mode": str, "would_repair": [str], "would_leave": [FINDING]}
FOUND = {"clean": bool, "unloaded": bool, "findings": [FINDING], "repaired": [str]}
CHECK = {
    "schema_version": int,
    **FOUND,
    "repairs": [PROSPECT],
    "unfinished": UNFINISHED_BLOBS,
}
REPAIR = {
    "schema_version": int,
    "clean": bool,
    "findings": [FINDING],
    "repaired": [str],
    "before": [FINDING],
    "undo": (str, type(None)),
}
PLAN = {**REPAIR, "dry_run": bool, "left": [FINDING]}

MASK_HEAD = 5
LAST_CLUSTER = 127


def answer(done: Result) -> dict[str, object]:
    assert done.stderr == ""
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture
def leaking(image: Image) -> Path:
    """A clean store whose mask says that a cluster is used which nobody owns."""
    content = bytearray(image.path.read_bytes())
    mask_at = SuperBlock.decode(content[:4096]).used_clusters.start * 4096
    content[mask_at + MASK_HEAD + LAST_CLUSTER // 8] |= 1 << LAST_CLUSTER % 8
    image.path.write_bytes(content)
    return image.path


@pytest.fixture
def ruined(image: Image) -> Path:
    """A file that was a store."""
    content = bytearray(image.path.read_bytes())
    content[: 1 << 20] = bytes(1 << 20)
    image.path.write_bytes(content)
    return image.path


# Looking


def test_a_clean_store_ends_with_status_0(image: Image, dirty_image: Image) -> None:
    for path in (image.path, dirty_image.path):
        same = unchanged(path)
        done = run_here("check", path)
        assert (done.status, done.stderr) == (0, "")
        assert done.text.splitlines()[-1].startswith(f"{path}: no problems")
        assert same()


def test_json_has_what_scripts_depend_on(image: Image, leaking: Path) -> None:
    done = run("check", leaking, "--json")
    assert done.status == 4
    found = answer(done)
    assert conforms(found, CHECK)
    assert (found["clean"], found["repaired"]) == (False, [])
    assert '"severity": "leak"' in done.text


def test_problems_end_with_status_4_a_line_for_each_and_a_sum(leaking: Path) -> None:
    same = unchanged(leaking)
    done = run_here("check", leaking)
    assert done.status == 4
    *findings, last = done.text.splitlines()
    assert any(line.startswith("leak 13: ") for line in findings)
    assert last == f"{leaking}: 2 leaks; nothing was changed"
    assert same()


def test_what_is_no_store_any_more_is_a_problem_and_no_failure(ruined: Path) -> None:
    done = run_here("check", ruined, "--json")
    assert done.status == 4
    assert conforms(answer(done), CHECK)


def test_a_shell_checks_the_store_that_it_has_open(image: Image) -> None:
    script = b"check --json\ncreate --size 64K\ncheck --json\n"
    done = run("shell", image.path, stdin=script)
    assert (done.status, done.stderr) == (0, "")
    first, _blob, second = done.text.splitlines()
    assert json.loads(first)["clean"]
    assert json.loads(second)["clean"]


def test_a_shell_does_not_repair_the_store_that_it_has_open(leaking: Path) -> None:
    same = unchanged(leaking)
    done = run_here("shell", leaking, "--read-only", stdin=b"check --repair safe")
    assert done.status == 1
    assert "the shell has it open" in done.stderr
    assert same()


def test_after_its_findings_check_says_what_each_repair_would_do(leaking: Path) -> None:
    same = unchanged(leaking)
    *lines, last = run_here("check", leaking).text.splitlines()
    start = lines.index("--repair leaks would do this, and no problem would remain:")
    assert last.endswith("; nothing was changed")
    assert same()
    (plan,) = json.loads(run_here("check", leaking, "--json").stdout)["repairs"]
    assert (plan["mode"], plan["would_leave"]) == ("leaks", [])
    assert plan["would_repair"]
    assert lines[start + 1 :] == [f"  {action}" for action in plan["would_repair"]]


def test_check_says_that_a_repair_would_do_nothing(ruined: Path) -> None:
    lines = run_here("check", ruined).text.splitlines()
    assert "--repair leaks would repair nothing" in lines
    assert [line.split()[1] for line in lines if line.startswith("--repair")] == [
        "leaks", "safe", "all",
    ]  # fmt: skip


def test_clean_means_unloaded_wherever_it_is_said(image: Image, dirty_image: Image) -> None:
    sound, crashed = run_here("check", image.path).text, run_here("check", dirty_image.path).text
    assert sound == f"{image.path}: no problems\n"
    advice = "`blobstore recover` leaves it clean"
    assert crashed == f"{dirty_image.path}: no problems; not unloaded: {advice}\n"
    for path, unloaded in ((image.path, True), (dirty_image.path, False)):
        assert run_here("info", path, "--json").json["clean"] is unloaded
        assert run_here("check", path, "--json").json["unloaded"] is unloaded


# Statuses


def test_a_store_that_cannot_be_opened_ends_with_status_8(image: Image, tmp_path: Path) -> None:
    done = run("check", tmp_path / "missing.img")
    assert (done.status, done.stdout) == (8, b"")
    assert done.stderr == f"{tmp_path}/missing.img: no such file or directory\n"
    with Blobstore.open(image.path):
        busy = run_here("check", image.path, "--json")
    assert (busy.status, busy.error["errno"]) == (8, "EBUSY")


def test_a_repair_that_cannot_begin_ends_with_status_8(leaking: Path, tmp_path: Path) -> None:
    same = unchanged(leaking)
    done = run_here("check", leaking, "--repair", "leaks", "--undo", leaking)
    assert done.status == 8
    assert "never overwritten" in done.stderr
    with Blobstore.open(leaking, read_only=True):
        assert run_here("check", leaking, "--repair", "leaks").status == 8
    assert same()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no store"),
        pytest.param(["disk.img", "more"], id="too many arguments"),
        pytest.param(["disk.img", "--fix"], id="unknown option"),
        pytest.param(["disk.img", "--repair", "most"], id="unknown mode"),
        pytest.param(["disk.img", "--dry-run"], id="a dry run of nothing"),
        pytest.param(["disk.img", "--undo", "file"], id="an undo file of nothing"),
    ],
)
def test_a_usage_error_ends_with_status_16(arguments: list[str]) -> None:
    done = run_here("check", *arguments)
    assert (done.status, done.stdout) == (16, b"")
    assert "Usage: blobstore check" in done.stderr
    in_json = run_here("check", *arguments, "--json")
    assert (in_json.status, in_json.error["errno"]) == (16, "EINVAL")


def test_help_says_what_the_statuses_mean_and_ends_with_0() -> None:
    done = run_here("check", "--help")
    assert done.status == 0
    assert "16 invalid usage" in " ".join(done.text.split())


# Repairing


def test_a_repair_says_what_it_did_and_where_its_undo_file_is(leaking: Path) -> None:
    before = unchanged(leaking)
    done = run("check", leaking, "--repair", "leaks")
    assert (done.status, done.stderr) == (1, "")
    lines = done.text.splitlines()
    assert any(line.startswith("found: leak 13: ") for line in lines)
    assert any(line.startswith("repaired: ") for line in lines)
    assert lines[-1].startswith(f"{leaking}: no problems now")
    assert lines[-1].endswith(f"undo file {leaking}.undo-1")
    assert run_here("check", leaking).status == 0
    assert not before()
    again = run_here("check", leaking, "--repair", "leaks")
    assert (again.status, again.text) == (0, f"{leaking}: no problems now; nothing to do\n")
    undone = run("undo", leaking, f"{leaking}.undo-1")
    assert (undone.status, undone.text) == (0, "4096 bytes restored\n")
    assert before()


def test_a_repair_in_json_has_what_was_before_and_what_is_left(
    leaking: Path, tmp_path: Path
) -> None:
    undo = tmp_path / "undo"
    done = run_here("check", leaking, "--repair", "leaks", "--undo", undo, "--json")
    found = answer(done)
    assert done.status == 1
    assert conforms(found, REPAIR)
    assert (found["clean"], found["findings"], found["undo"]) == (True, [], str(undo))
    assert found["before"]
    assert found["repaired"]
    assert run_here("undo", leaking, undo, "--json").json == {"restored": 4096}


def test_a_dry_run_writes_nothing_and_ends_with_status_4_if_there_is_something_to_do(
    leaking: Path,
) -> None:
    same = unchanged(leaking)
    done = run_here("check", leaking, "--repair", "leaks", "--dry-run")
    assert done.status == 4
    assert any(line.startswith("would repair: ") for line in done.text.splitlines())
    assert done.text.endswith("nothing was changed\n")
    found = answer(run_here("check", leaking, "--repair", "leaks", "--dry-run", "--json"))
    assert conforms(found, PLAN)
    assert (found["clean"], found["left"], found["undo"]) == (False, [], None)
    assert same()
    assert list(leaking.parent.glob("*.undo*")) == []


def test_a_dry_run_over_a_clean_store_ends_with_status_0(image: Image) -> None:
    assert run_here("check", image.path, "--repair", "all", "--dry-run").status == 0


def test_problems_that_a_repair_does_not_touch_are_left(ruined: Path) -> None:
    same = unchanged(ruined)
    done = run_here("check", ruined, "--repair", "leaks", "--json")
    assert done.status == 4
    assert answer(done)["undo"] is None
    assert same()


def test_a_wrong_undo_file_fails_like_any_command(image: Image, tmp_path: Path) -> None:
    same = unchanged(image.path)
    assert run_here("undo", image.path, tmp_path / "missing", "--json").error["errno"] == "ENOENT"
    (tmp_path / "text").write_bytes(b"text" * 100)
    done = run_here("undo", image.path, tmp_path / "text", "--json")
    assert (done.status, done.error["errno"]) == (1, "EILSEQ")
    assert run_here("undo", image.path).status == 2
    assert same()


@pytest.fixture
def cut_off(leaking: Path) -> Path:
    """A store whose repair lost the device after its first write."""
    failure = DeviceError("power failure")
    with patch.object(FileDevice, "flush", side_effect=failure), suppress(DeviceError):
        repair(leaking, "leaks")
    return leaking


def test_check_of_a_store_whose_repair_was_cut_off_ends_with_4_and_names_the_undo_file(
    cut_off: Path,
) -> None:
    same = unchanged(cut_off)
    done = run_here("check", cut_off)
    assert done.status == 4
    first = done.text.splitlines()[0]
    assert first.startswith(
        "error 46: super block: a repair was cut off, its undo file is disk.img.undo-1: "
    )
    refused = run_here("list", cut_off)
    assert (refused.status, refused.text) == (1, "")
    assert (
        "a repair was cut off, its undo file is disk.img.undo-1: with it `undo`" in refused.stderr
    )
    assert run_here("rescue", cut_off).status == 0
    assert same()


def test_a_repair_that_was_cut_off_is_undone_or_begins_again_with_its_undo_file(
    image: Image, cut_off: Path
) -> None:
    content = cut_off.read_bytes()
    undone = run_here("undo", cut_off, f"{cut_off}.undo-1")
    assert (undone.status, undone.text) == (0, "4096 bytes restored\n")
    assert "leak 13" in run_here("check", cut_off).text
    cut_off.write_bytes(content)
    done = run_here("check", cut_off, "--repair", "leaks")
    assert done.status == 1
    assert f"repaired: undone with {cut_off}.undo-1: the repair that was cut off\n" in done.text
    assert done.text.endswith(f"undo file {cut_off}.undo-1\n")
    assert run_here("check", cut_off).status == 0


def test_without_its_undo_file_a_repair_says_that_only_all_goes_on(cut_off: Path) -> None:
    Path(f"{cut_off}.undo-1").unlink()
    same = unchanged(cut_off)
    done = run_here("repair", cut_off)
    assert done.status == 4
    assert "left: error 46" in done.text
    assert "without it `repair all` mends what is there" in done.text
    assert same()
    assert run_here("check", cut_off, "--repair", "all").status == 1
    assert run_here("check", cut_off).status == 0


def test_repair_is_a_command_that_does_what_check_repair_safe_does(
    leaking: Path, tmp_path: Path
) -> None:
    same = unchanged(leaking)
    plan = answer(run_here("repair", leaking, "--dry-run", "--json"))
    assert plan == answer(run_here("check", leaking, "--repair", "safe", "--dry-run", "--json"))
    assert same()
    done = run("repair", leaking, "--undo", tmp_path / "undo", "--yes", "--json")
    found = answer(done)
    assert (done.status, found["clean"], found["undo"]) == (1, True, str(tmp_path / "undo"))
    assert run_here("repair", leaking).status == 0
    assert run_here("repair", leaking, "--repair", "some").status == 16


def test_yes_is_accepted_by_check(image: Image) -> None:
    assert run_here("check", image.path, "--yes").status == 0


def test_a_check_and_a_repair_that_leave_errors_end_with_how_to_copy_out_what_can_be_read(
    image: Image, leaking: Path
) -> None:
    with image.path.open("r+b") as file:
        file.seek(4 * 4096 + 100)
        file.write(b"broken")
    line = f"before a repair, copy out what can be read: blobstore rescue {image.path}"
    for command in (("check",), ("check", "--repair", "all", "--dry-run"), ("repair",)):
        name, *options = command
        done = run_here(name, image.path, *options)
        assert (done.status, done.text.splitlines()[-1]) == (4, line)
    assert "rescue" not in run_here("check", image.path, "--json").text
    repaired = run_here("check", image.path, "--repair", "all")
    assert (repaired.status, line in repaired.text) == (1, False)
    assert "rescue" not in run_here("check", leaking).text


# Text


def test_a_line_names_severity_number_place_and_message_once() -> None:
    findings = (
        Finding(35, Severity.ERROR, "two owners", blob=BlobId(1 << 32), cluster=17),
        Finding(17, Severity.ERROR, "page 31: wrong crc", page=PageIndex(3)),
        Finding(24, Severity.LEAK, "page 3: nobody's", page=PageIndex(3)),
        Finding(42, Severity.NOTE, "a name \x1b[31m"),
    )
    assert render_check(CheckReport(findings), store="disk.img").splitlines() == [
        "error 35: blob 0x100000000, cluster 17: two owners",
        "error 17: page 3: page 31: wrong crc",
        "leak 24: page 3: nobody's",
        r"note 42: a name \x1b[31m",
        "disk.img: 2 errors, 1 leak, 1 note; nothing was changed",
    ]


def test_notes_leave_a_store_clean() -> None:
    report = CheckReport((Finding(42, Severity.NOTE, "larger than its snapshot"),))
    last = render_check(report, store="disk.img").splitlines()[-1]
    assert last == "disk.img: no problems, 1 note"


def test_what_a_repair_leaves_is_said() -> None:
    before = CheckReport((Finding(22, Severity.ERROR, "a lost root"),))
    report = RepairReport(before, before, ("masks written",), "disk.img.undo-1")
    assert render_repair(report, store="disk.img").splitlines() == [
        "found: error 22: a lost root",
        "repaired: masks written",
        "left: error 22: a lost root",
        "disk.img: 1 error left; 1 repair, undo file disk.img.undo-1",
    ]
    plan = RepairReport(before, before, ("masks written",), None)
    assert render_plan(plan, store="disk.img").splitlines() == [
        "found: error 22: a lost root",
        "would repair: masks written",
        "would leave: error 22: a lost root",
        "disk.img: 1 error; 1 repair to do, nothing was changed",
    ]
    assert plan_fields(plan)["dry_run"] is True
