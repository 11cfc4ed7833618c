"""An import that was interrupted goes on where it was, or is deleted; nothing of it looks whole."""

import hashlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blobstore import Blob, Blobstore, VolumeStore
from blobstore.cli import copying
from tests.cli.runner import Result, run_here
from tests.cli.schema import UNFINISHED_BLOBS, conforms

MIB = 1 << 20
CLUSTER = 64 * 1024
SIZE = 9 * MIB


@pytest.fixture(autouse=True)
def _small_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "CHECKPOINT_BYTES", 2 * MIB)


@pytest.fixture(params=[False, True], ids=["blobs", "volumes"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "store.img"
    if request.param:
        VolumeStore.create(path, name="s", size="32MiB", cluster_size=CLUSTER).close()
    else:
        Blobstore.create(path, size="32MiB", cluster_size=CLUSTER).close()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of 8 MiB of data with a hole of 1 MiB in its middle."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(random.Random(1).randbytes(4 * MIB))
        file.seek(5 * MIB)
        file.write(random.Random(2).randbytes(4 * MIB))
    return path


def on_write(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], None]) -> None:
    """Have something done in place of the `number`-th write to a blob, from 1."""
    write, counted = Blob.write, [0]

    def counting(blob: Blob, data: bytes, offset: int = 0) -> int:
        counted[0] += 1
        if counted[0] == number:
            what()
        return write(blob, data, offset)

    monkeypatch.setattr(Blob, "write", counting)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(number: int, *arguments: str | Path) -> None:
    """Run a command in a process that kills itself in place of its `number`-th write."""
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            on_write(patch, number, die)
            run_here(*arguments)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def imported(store: Path, source: Path, *options: str) -> Result:
    return run_here("import", store, source, "--name", "disk", *options, "--json")


def blobs(store: Path) -> dict[int, str | None]:
    """Return the blobs, and the command that has not finished each; not a store's own."""
    listed = run_here("list", store, "--json").json["blobs"]
    return {each["id"]: each.get("unfinished") for each in listed if each["size"]}


def bytes_written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    write, lengths = Blob.write, list[int]()

    def noting(blob: Blob, data: bytes, offset: int = 0) -> int:
        lengths.append(len(data))
        return write(blob, data, offset)

    monkeypatch.setattr(Blob, "write", noting)
    return lengths


@pytest.mark.slow
@pytest.mark.parametrize("thin", [["--thin"], []], ids=["thin", "thick"])
@pytest.mark.parametrize(("number", "durable_mib"), [(1, 0), (2, 0), (3, 2), (8, 6)])
def test_a_killed_import_is_visible_and_goes_on_and_the_hash_is_that_of_the_whole(
    store: Path,
    source: Path,
    thin: list[str],
    number: int,
    durable_mib: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed(number, "import", store, source, "--name", "disk", *thin)
    ((blob_id, command),) = blobs(store).items()
    assert command == "import"
    assert run_here("list", store).text.count("unfinished import") == 1
    assert run_here("info", store, "--json").json["unfinished"] == 1
    checked = run_here("check", store, "--json").json
    assert conforms(checked["unfinished"], UNFINISHED_BLOBS)
    assert (checked["clean"], checked["unfinished"][0]["id"]) == (True, blob_id)
    lengths = bytes_written(monkeypatch)
    done = imported(store, source, *thin, "--verify", "--resume").json
    assert done["id"] == blob_id
    assert done["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert sum(lengths) == (8 - durable_mib) * MIB
    assert blobs(store) == {blob_id: None}
    assert "unfinished" not in run_here("info", store, "--json").json
    shown = run_here("show", store, "disk", "--json").json
    assert list(shown["xattrs"]) == (["name", "uuid"] if "uuid" in shown else ["name"])


@pytest.mark.parametrize("change", ["content", "size"])
def test_an_import_does_not_go_on_with_a_source_that_has_changed(
    store: Path, source: Path, change: str
) -> None:
    killed(6, "import", store, source, "--name", "disk", "--thin")
    if change == "size":
        os.truncate(source, SIZE + 1)
    else:
        os.utime(source, ns=(1, 1))
    done = imported(store, source, "--thin", "--resume")
    assert (done.status, done.error["errno"]) == (1, "EINVAL")
    assert "has changed since its import was interrupted" in done.error["message"]
    assert run_here("delete", store, "--unfinished").status == 1  # not asked, not --yes
    deleted = run_here("delete", store, "--unfinished", "--yes", "--json").json["deleted"]
    assert (len(deleted), blobs(store)) == (1, {})
    assert imported(store, source, "--thin", "--resume").status == 0


def test_an_unfinished_blob_of_another_kind_is_not_gone_on_with(store: Path, source: Path) -> None:
    killed(6, "import", store, source, "--name", "disk", "--thin")
    done = imported(store, source, "--resume")
    assert "unfinished and thin, not thick" in done.error["message"]


def test_of_two_unfinished_imports_the_one_that_came_further_goes_on(
    store: Path, source: Path
) -> None:
    for number in (6, 8):
        killed(number, "import", store, source, "--name", "disk", "--thin")
    first, second = blobs(store)
    assert imported(store, source, "--thin", "--resume").json["id"] == second
    assert blobs(store) == {first: "import", second: None}


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing_before_the_first_checkpoint_and_what_is_durable_after_it(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, left in ((2, 0), (5, 1), (1, 1)):
        with monkeypatch.context() as patch:
            on_write(patch, number, interrupt)
            done = run_here("import", store, source, "--name", "disk", "--resume")
        assert (done.status, len(blobs(store))) == (130, left)
        assert ("`import --resume` goes on with it" in done.stderr) == bool(left), done.stderr
        assert done.stderr.count("\n") == 1
    assert imported(store, source, "--resume").status == 0


def test_an_import_goes_on_when_its_source_can_be_read_again(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        on_write(patch, 7, lost)
        assert imported(store, source).status == 1
    ((blob_id, command),) = blobs(store).items()
    assert command == "import"
    assert imported(store, source, "--resume").json["id"] == blob_id


def test_an_import_goes_on_when_a_full_store_has_space_again(store: Path, source: Path) -> None:
    killed(6, "import", store, source, "--name", "disk", "--thin")
    free = run_here("info", store, "--json").json["free_clusters"] - 8
    create = ("create", store, "other", "--size", str(free * CLUSTER), "--json")
    other = run_here(*create).json["id"]
    done = imported(store, source, "--thin", "--resume")
    assert done.error["errno"] == "ENOSPC"
    assert "`import --resume` goes on with it" in done.error["message"]
    assert run_here("delete", store, str(other), "--yes").status == 0
    done = imported(store, source, "--thin", "--resume", "--verify")
    assert done.json["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


def test_a_resumed_import_that_differs_from_its_source_is_deleted(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(6, "import", store, source, "--name", "disk")
    right = copying.fill_new

    def wrong(blob: Blob, *arguments: Any, **options: Any) -> None:
        right(blob, *arguments, **options)
        blob.write(b"!", 70_000)

    monkeypatch.setattr("blobstore.cli.importing.fill_new", wrong)
    done = imported(store, source, "--resume", "--verify")
    assert (done.error["errno"], "is kept" in done.error["message"]) == ("EIO", False)
    assert blobs(store) == {}


def test_resume_is_for_a_new_blob_and_unfinished_stands_alone(store: Path, source: Path) -> None:
    assert run_here("import", store, source, "disk", "--resume").status == 2
    assert run_here("delete", store, "disk", "--unfinished").status == 2
    assert run_here("delete", store).status == 2
    assert run_here("delete", store, "--unfinished", "--yes").stdout == b""


def test_a_name_that_another_blob_has_is_refused_before_anything_is_copied(
    store: Path, source: Path
) -> None:
    run_here("create", store, "disk", "--size", "1M")
    before = blobs(store)
    done = imported(store, source)
    assert (done.error["errno"], blobs(store)) == ("EEXIST", before)


def test_a_name_that_no_blob_can_have_is_refused_before_anything_is_copied(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_write(monkeypatch, 1, interrupt)
    done = run_here("import", store, source, "--name", "", "--json")
    assert (done.status, done.error["errno"]) == (1, "EINVAL")


def test_a_killed_copy_is_visible_and_can_be_deleted(
    store: Path, source: Path, tmp_path: Path
) -> None:
    imported(store, source)
    target = tmp_path / "target.img"
    Blobstore.create(target, size="32MiB", cluster_size=CLUSTER).close()
    killed(3, "copy", store, target)
    assert list(blobs(target).values()) == ["copy"]
    assert run_here("show", target, "disk").status == 1  # it has no name yet
    assert "its copy was interrupted" in run_here("check", target).text
    run_here("delete", target, "--unfinished", "--yes")
    assert blobs(target) == {}
    assert run_here("copy", store, target).status == 0
