"""The soak: it kills workers and finds nothing, and it would find what is missing."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from blobstore import Blobstore
from blobstore.testing.expectation import BLOCK
from tests.proof.soak import Soak, main, soak
from tests.proof.soak_worker import CLUSTER, stamped

STAMP: Final = 77
_WRITE: Final = ["write", 1, 3, 5, STAMP]
CREATED: Final[list[tuple[list[Any], bool | None]]] = [
    (["create", 1, 4], True),
    (["xattr", 1, "a", "value"], True),
    (_WRITE, True),
]
FLUSHED: Final = [*CREATED, (["flush", 1], True)]


def left_by_a_worker(directory: Path, log: Sequence[tuple[list[Any], bool | None]]) -> Soak:
    """Make what a worker leaves that wrote five blocks to a new blob; None is not acknowledged."""
    left = Soak(directory, Random(1))
    Blobstore.create(left.image, size=1 << 20, cluster_size=CLUSTER, md_pages=16).close()
    left.before.write_bytes(left.image.read_bytes())
    with Blobstore.open(left.image) as store:
        blob = store.create_blob(4 * CLUSTER, thin=True, xattrs={"name": b"1"})
        blob.xattrs["a"] = b"value"
        blob.write(b"".join(stamped(STAMP, block) for block in range(3, 8)), 3 * BLOCK)
        blob.flush()
        killed = left.image.read_bytes()
    left.image.write_bytes(killed)
    write_log(left.log, log)
    return left


def write_log(path: Path, log: Sequence[tuple[list[Any], bool | None]]) -> None:
    lines = []
    for record, done in log:
        lines.append(json.dumps({"who": 0, "do": record}))
        if done is not None:
            lines.append(json.dumps({"who": 0, "done": done}))
    torn = '{"who": 0, "d'
    path.write_text("\n".join([*lines, torn]))


def without(image: Path, block: int) -> None:
    """Take a block out of the image that is in it."""
    content = image.read_bytes()
    assert content.count(stamped(STAMP, block)) == 1
    image.write_bytes(content.replace(stamped(STAMP, block), bytes(BLOCK)))


def test_workers_are_killed_and_nothing_that_was_acknowledged_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--kills", "6", "--seed", "3", "--directory", str(tmp_path)]) == 0
    report = capsys.readouterr().out
    assert "6 kills" in report
    assert " 0 missing" in report
    assert " 0 operations" not in report
    assert main(["--judge", "--directory", str(tmp_path)]) == 0


def test_what_was_acknowledged_and_is_there_is_found(tmp_path: Path) -> None:
    left = left_by_a_worker(tmp_path, FLUSHED)
    assert left.judge() is None
    assert (left.counts.acknowledged, left.counts.compared) == (4, 1)


def test_a_flushed_write_that_is_not_in_the_image_is_reported(tmp_path: Path) -> None:
    left = left_by_a_worker(tmp_path, FLUSHED)
    without(left.image, 5)
    problem = left.judge()
    assert problem is not None
    assert "blob 0x1: block 5" in problem


def test_a_write_that_no_flush_followed_may_be_missing(tmp_path: Path) -> None:
    left = left_by_a_worker(tmp_path, CREATED)
    without(left.image, 5)
    assert left.judge() is None


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        pytest.param([(["create", 1, 4], True)], "metadata", id="xattr not in the log"),
        pytest.param(
            [*CREATED[:2], (["write", 1, 3, 5, STAMP + 1], True), (["flush", 1], True)],
            "block 3",
            id="another write in the log",
        ),
        pytest.param(
            [*FLUSHED, (["create", 2, 1], True)], "blob 0x2 is missing", id="blob not in the image"
        ),
        pytest.param([], "should not be there", id="blob not in the log"),
        pytest.param([*FLUSHED, (["delete", 1], True)], "should not be there", id="not deleted"),
    ],
)
def test_a_log_that_lies_is_reported_with_the_place(
    log: Sequence[tuple[list[Any], bool | None]],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left_by_a_worker(tmp_path, log)
    assert main(["--judge", "--directory", str(tmp_path)]) == 1
    assert problem in capsys.readouterr().out


@pytest.mark.parametrize(
    "log",
    [
        pytest.param([*FLUSHED, (["create", 2, 1], None)], id="create"),
        pytest.param([*FLUSHED, (["delete", 1], None)], id="delete"),
        pytest.param([*FLUSHED, (["write", 1, 0, 9, 5], None)], id="write"),
        pytest.param([*FLUSHED, (["snapshot", 1, 2], None)], id="snapshot"),
        pytest.param([*FLUSHED, (["resize", 1, 9], False)], id="refused resize"),
    ],
)
def test_what_was_in_progress_or_refused_need_not_have_happened(
    log: Sequence[tuple[list[Any], bool | None]], tmp_path: Path
) -> None:
    assert left_by_a_worker(tmp_path, log).judge() is None


def test_an_image_without_a_store_is_reported(tmp_path: Path) -> None:
    left = left_by_a_worker(tmp_path, FLUSHED)
    left.image.write_bytes(bytes(1 << 20))
    assert left.judge() == "BrokenStoreError: there is no store"


def test_a_worker_that_fails_by_itself_ends_the_soak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    assert soak(tmp_path, kills=5, seed=1).missing == 1
    report = capsys.readouterr().out
    assert "BAD seed 1, kill 1" in report
    assert "CorruptError" in report
