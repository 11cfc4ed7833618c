"""snapshot, clone, inflate, decouple, set-parent, shallow-copy, set-read-only."""

from pathlib import Path

import pytest

from blobstore import BlobInfo, Blobstore
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, run_here, run_on_terminal, unchanged
from tests.cli.schema import ID, PARENT, conforms


def show(path: Path, blob_id: int) -> BlobInfo:
    with Blobstore.open(path, read_only=True) as store, store.open_blob(blob_id) as blob:
        return blob.info


def snapshot_of(image: Image, blob_id: int) -> int:
    with Blobstore.open(image.path) as store, store.open_blob(blob_id) as blob:
        return blob.snapshot().id


def test_snapshot_prints_the_id_of_a_read_only_blob_that_the_blob_is_a_clone_of(
    image: Image,
) -> None:
    done = run("snapshot", image.path, hex(image.thin), "monday")
    assert (done.status, done.stderr) == (0, "")
    snapshot = show(image.path, int(done.text, 16))
    assert (snapshot.snapshot, snapshot.clones) == (True, [image.thin])
    assert snapshot.xattrs.keys() == {"name", "snapshot_id", "snapshot_time"}
    assert snapshot.xattrs["name"] == b"monday"
    assert show(image.path, image.thin).parent == snapshot.blob_id


def test_a_name_is_kept_as_it_stands(image: Image) -> None:
    done = run_here("snapshot", image.path, str(image.thin), "@hex:00", "--json")
    assert conforms(done.json, {"id": ID})
    assert show(image.path, done.json["id"]).xattrs["name"] == b"@hex:00"
    made = run_here("create", image.path, "hex:zz", "--size", "0", "--json").json["id"]
    assert show(image.path, made).xattrs == {"name": b"hex:zz"}


def test_clone_makes_a_writable_blob_that_reads_as_its_snapshot(image: Image) -> None:
    snapshot = snapshot_of(image, image.thin)
    done = run("clone", image.path, str(snapshot), "try", "--json")
    assert conforms(done.json, {"id": ID})
    made = done.json["id"]
    assert show(image.path, made).parent == snapshot
    assert run_here("read", image.path, str(made)).stdout == (
        run_here("read", image.path, str(snapshot)).stdout
    )
    assert run_here("clone", image.path, str(snapshot)).text == f"{made + 1:#x}\n"


def test_who_can_be_written_to_cannot_be_cloned_and_the_other_way_round(image: Image) -> None:
    snapshot = snapshot_of(image, image.thin)
    same = unchanged(image.path)
    assert run_here("clone", image.path, str(image.thin), "--json").error["errno"] == "EINVAL"
    assert run_here("snapshot", image.path, str(snapshot), "--json").error["errno"] == "EINVAL"
    assert same()


def test_inflate_gives_every_cluster_and_takes_the_parent(image: Image) -> None:
    snapshot_of(image, image.thin)
    done = run("inflate", image.path, str(image.thin), "--json")
    assert conforms(done.json, PARENT)
    assert done.json == {
        "id": image.thin, "thin": False, "allocated_clusters": 16, "parent": None,
        "external_snapshot": None,
    }  # fmt: skip
    assert run_here("inflate", image.path, str(image.thin)).stdout == b""


def test_decouple_copies_what_the_parent_holds(image: Image) -> None:
    snapshot_of(image, image.thin)
    done = run("decouple", image.path, str(image.thin), "--json")
    assert conforms(done.json, PARENT)
    assert (done.json["allocated_clusters"], done.json["parent"]) == (1, None)
    assert run_here("decouple", image.path, str(image.thin), "--json").error["errno"] == "EINVAL"


def test_set_parent_puts_a_blob_on_another_snapshot(image: Image) -> None:
    snapshot = snapshot_of(image, image.thin)
    made = run_here("create", image.path, "--size", "1M", "--thin", "--json").json["id"]
    done = run("set-parent", image.path, str(made), hex(snapshot), "--json")
    assert conforms(done.json, PARENT)
    assert (done.json["id"], done.json["parent"]) == (made, snapshot)
    again = run_here("set-parent", image.path, str(made), str(snapshot), "--json")
    assert again.error["errno"] == "EEXIST"


def test_set_parent_asks_before_it_changes_what_clones_read(image: Image) -> None:
    snapshot = run_here("snapshot", image.path, str(image.thin), "--json").json["id"]
    size = run_here("show", image.path, str(image.thin), "--json").json["size"]
    other = run_here("create", image.path, "--size", str(size), "--thin", "--json").json["id"]
    parent = run_here("snapshot", image.path, str(other), "--json").json["id"]
    same = unchanged(image.path)
    command = ("set-parent", image.path, str(snapshot), str(parent))
    refused = run(*command)
    assert refused.status == 1
    assert refused.stderr == (
        f"{image.path}: blob {snapshot:#x}: change what it and its clones read: "
        "not on a terminal, --yes is needed\n"
    )
    assert same()
    assert run(*command, "--yes").status == 0
    refused = run("send", image.path, str(parent), "--from", str(snapshot))
    assert (refused.status, refused.stdout) == (1, b"")
    assert "its content has changed since it was taken" in refused.stderr


def test_set_parent_takes_an_external_one_that_is_there(image: Image, tmp_path: Path) -> None:
    (tmp_path / "photos").write_bytes(b"p" * CLUSTER)
    arguments = ("set-parent", image.path, str(image.thin), "--external-snapshot", "photos")
    assert run_here(*arguments, "--json").error["errno"] == "ENOENT"
    done = run(*arguments, "--external", f"photos={tmp_path}/photos", "--json")
    assert conforms(done.json, PARENT)
    assert (done.json["parent"], done.json["external_snapshot"]) == (None, b"photos".hex())


def test_set_read_only_is_for_good(image: Image) -> None:
    done = run("set-read-only", image.path, str(image.thick), "--json")
    assert done.json == {"id": image.thick, "read_only": True}
    done = run_here("write", image.path, str(image.thick), "--json", stdin=b"x")
    assert done.error["errno"] == "EPERM"
    assert run_here("clone", image.path, str(image.thick)).status == 0


def test_shallow_copies_of_a_chain_oldest_first_give_the_whole(
    image: Image, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(bytes(16 * CLUSTER))
    first = snapshot_of(image, image.thin)
    run_here("write", image.path, str(image.thin), "--offset", "128K", stdin=b"second")
    run_here("write", image.path, str(image.thin), "--offset", "576K", stdin=b"third")
    second = snapshot_of(image, image.thin)
    same = unchanged(image.path)
    done = run("shallow-copy", image.path, str(first), target, "--json")
    assert done.json == {"id": first, "clusters": 1}
    assert run_here("shallow-copy", image.path, hex(second), target).text == "2 clusters\n"
    assert same()
    assert target.read_bytes() == run_here("read", image.path, str(second)).stdout


def test_a_shallow_copy_shows_its_progress_on_a_terminal(image: Image, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(bytes(16 * CLUSTER))
    snapshot = snapshot_of(image, image.thin)
    done = run_on_terminal("shallow-copy", image.path, str(snapshot), tmp_path / "target")
    assert (done.status, done.stdout) == (0, b"1 clusters\n")
    assert "shallow copy" in done.stderr


@pytest.mark.parametrize(
    ("size", "errno"), [pytest.param(CLUSTER, "EINVAL", id="small"), pytest.param(0, "ENOENT")]
)
def test_a_shallow_copy_needs_a_large_enough_target(
    image: Image, tmp_path: Path, size: int, errno: str
) -> None:
    if size:
        (tmp_path / "target").write_bytes(bytes(size))
    snapshot = snapshot_of(image, image.thin)
    done = run_here("shallow-copy", image.path, str(snapshot), tmp_path / "target", "--json")
    assert done.error["errno"] == errno


def test_a_shallow_copy_of_what_can_be_written_to_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(bytes(16 * CLUSTER))
    done = run_here("shallow-copy", image.path, str(image.thin), tmp_path / "target", "--json")
    assert done.error["errno"] == "EPERM"


def test_rollback_makes_a_blob_read_as_a_snapshot_again(image: Image) -> None:
    before = run_here("read", image.path, "beta").stdout
    run_here("snapshot", image.path, "beta", "monday")
    run_here("write", image.path, "beta", stdin=b"tuesday")
    run_here("snapshot", image.path, "beta", "tuesday")
    run_here("write", image.path, "beta", stdin=b"wednesday")
    done = run("rollback", image.path, "beta", "monday", "--yes", "--json")
    assert conforms(done.json, PARENT)
    monday = show(image.path, done.json["parent"])
    assert (monday.name, done.json["allocated_clusters"]) == ("monday", 0)
    assert run_here("read", image.path, "beta").stdout == before
    assert run_here("read", image.path, "tuesday", "--length", "7").stdout == b"tuesday"


def test_rollback_asks_where_the_blob_has_written_since(image: Image) -> None:
    run_here("snapshot", image.path, "beta", "monday")
    assert run_here("rollback", image.path, "beta", "monday").status == 0
    run_here("write", image.path, "beta", stdin=b"tuesday")
    same = unchanged(image.path)
    assert run_here("rollback", image.path, "beta", "monday", "--json").error["errno"] == "EPERM"
    assert same()
    asked = run_on_terminal("rollback", image.path, "beta", "monday", typed="y\n")
    assert (asked.status, "roll it back" in asked.stderr) == (0, True)
    error = run_here("rollback", image.path, "beta", "alpha", "--yes", "--json").error
    assert error["errno"] == "EINVAL"
