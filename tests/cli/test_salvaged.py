"""A repair that loses content: whoever reads it later is told so."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from blobstore import Blobstore
from blobstore.cli.condition import warnings_of
from blobstore.nbd.exports import StoreExports
from tests.cli.runner import Result, run

CLUSTER = 65536


@dataclass(frozen=True)
class Lossy:
    """A store after `check --repair all`: a snapshot without its extents, and what reads it."""

    path: Path
    snapshot: int
    clone: int
    upper: int
    other: int
    repair: Result


@pytest.fixture
def lossy(tmp_path: Path) -> Lossy:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="16MiB", cluster_size=CLUSTER) as store:
        blob = store.create_blob(4 * CLUSTER, thin=True, name="mail")
        blob.write(b"data" * CLUSTER)
        snapshot = blob.snapshot("mail@1")
        upper = blob.snapshot("mail@2")
        other = store.create_blob(CLUSTER, name="other")
        ids = snapshot.id, blob.id, upper.id, other.id
        page = store.info.md_start + snapshot.info.extent_pages[0]
    with path.open("r+b") as file:
        file.seek(4096 * page)
        file.write(bytes(4096))
    assert "cannot be read" in run("export", path, "mail", tmp_path / "before.raw").stderr
    repair = run("check", path, "--repair", "all")
    with Blobstore.open(path, read_only=True) as store:
        (unowned,) = [blob.id for blob in store.iter_blobs() if blob.id not in ids]
    assert run("delete", path, str(unowned), "--yes").status == 0
    return Lossy(path, *ids, repair)


def warning(lossy: Lossy, blob: int) -> str:
    return (
        f"blob {blob:#x}: reads blob {lossy.snapshot:#x}, which was salvaged by a repair; "
        "parts may be wrong, and what was lost reads as zeroes\n"
    )


def test_a_repair_names_every_blob_that_reads_what_it_lost(lossy: Lossy) -> None:
    assert lossy.repair.status == 1
    (line,) = [line for line in lossy.repair.text.splitlines() if "salvaged" in line]
    readers = ", ".join(f"{blob_id:#x}" for blob_id in sorted((lossy.clone, lossy.upper)))
    assert line.endswith(f"what it lost is missing in its clones too: {readers}")


def test_a_list_tells_salvaged_blobs_and_what_reads_them(lossy: Lossy) -> None:
    lines = run("list", lossy.path).text.splitlines()
    kinds = {int(line.split()[0], 16): line for line in lines[1:]}
    assert "snapshot thin salvaged " in kinds[lossy.snapshot]
    assert "clone thin salvaged parent " in kinds[lossy.clone]
    assert "snapshot clone thin salvaged parent " in kinds[lossy.upper]
    assert "salvaged" not in kinds[lossy.other]


def test_info_counts_the_salvaged_blobs(lossy: Lossy) -> None:
    assert run("info", lossy.path).text.endswith("salvaged: 1 of the blobs, see `list`\n")
    assert run("info", lossy.path, "--json").json["salvaged"] == 1
    run("create", lossy.path, "--size", "1M", "--thin")
    assert run("delete", lossy.path, "mail@1", "--yes").status == 0  # merged into `mail@2`
    assert run("info", lossy.path, "--json").json["salvaged"] == 1
    assert run("delete", lossy.path, "mail", "--yes").status == 0
    assert run("delete", lossy.path, "mail@2", "--yes").status == 0
    assert "salvaged" not in run("info", lossy.path, "--json").json
    assert "salvaged" not in run("info", lossy.path).text


def test_the_mark_of_a_blob_whose_data_were_restored_is_removed_as_an_attribute(
    lossy: Lossy,
) -> None:
    assert run("inflate", lossy.path, "mail").status == 0
    assert run("read", lossy.path, "mail", "--length", "4").stderr.startswith(
        f"blob {lossy.clone:#x}: was salvaged"
    )
    assert run("xattr", "remove", lossy.path, "mail", "salvaged").status == 0
    assert run("read", lossy.path, "mail", "--length", "4").stderr == ""


def test_what_is_received_on_salvaged_content_is_warned_of(lossy: Lossy, tmp_path: Path) -> None:
    other, stream = tmp_path / "other.img", tmp_path / "stream"
    run("init", other, "--size", "16M", "--cluster-size", str(CLUSTER))
    run("snapshot", lossy.path, "mail", "mail@3")
    run("send", lossy.path, "mail@3", "--to", stream)
    done = run("receive", other, "--from", stream)
    assert done.status == 0
    assert "was salvaged by a repair" in done.stderr
    again = run("receive", other, "mail@4", "--from", stream, "--json").json
    assert again["salvaged"] == again["id"]


def test_a_shallow_copy_warns_of_what_the_blob_itself_has_lost(
    lossy: Lossy, tmp_path: Path
) -> None:
    device = tmp_path / "device"
    device.write_bytes(bytes(64 * CLUSTER))
    done = run("shallow-copy", lossy.path, "mail@1", device)
    assert done.stderr.startswith(f"blob {lossy.snapshot:#x}: was salvaged")
    assert run("shallow-copy", lossy.path, "mail@2", device).stderr == ""
    done = run("shallow-copy", lossy.path, "mail@1", device, "--json")
    assert done.json["salvaged"] == lossy.snapshot


@pytest.mark.parametrize(("which", "kind"), [("mail@1", "salvaged"), ("mail", "salvaged parent")])
def test_show_tells_that_a_blob_or_its_parent_was_salvaged(
    lossy: Lossy, which: str, kind: str
) -> None:
    (line,) = [line for line in run("show", lossy.path, which).text.splitlines() if "kind" in line]
    assert line.endswith(f"thin {kind}")


def test_read_and_export_and_send_warn_once_and_do_what_was_asked(
    lossy: Lossy, tmp_path: Path
) -> None:
    read = run("read", lossy.path, "mail", "--length", "4")
    assert (read.status, read.stdout) == (0, bytes(4))
    assert read.stderr == warning(lossy, lossy.clone)
    export = run("export", lossy.path, "mail", tmp_path / "mail.raw")
    assert (export.status, export.stderr) == (0, warning(lossy, lossy.clone))
    chain = run("export", lossy.path, "mail", tmp_path / "mail.qcow2", "--chain")
    assert (chain.status, chain.stderr) == (0, warning(lossy, lossy.clone))
    send = run("send", lossy.path, "mail@2")
    assert (send.status, send.stderr) == (0, warning(lossy, lossy.upper))
    itself = run("read", lossy.path, "mail@1", "--length", "4").stderr
    assert itself == (
        f"blob {lossy.snapshot:#x}: was salvaged by a repair; "
        "parts may be wrong, and what was lost reads as zeroes\n"
    )


def test_a_sound_blob_of_the_store_warns_of_nothing(lossy: Lossy, tmp_path: Path) -> None:
    assert run("read", lossy.path, "other", "--length", "4").stderr == ""
    assert "salvaged" not in run("read", lossy.path, "other", "--length", "4", "--json").json


def test_json_has_the_salvaged_blob_as_a_member(lossy: Lossy, tmp_path: Path) -> None:
    read = run("read", lossy.path, "mail", "--length", "4", "--json").json
    export = run("export", lossy.path, "mail", tmp_path / "mail.raw", "--json").json
    send = run("send", lossy.path, "mail@2", "--to", tmp_path / "mail.stream", "--json").json
    assert [each["salvaged"] for each in (read, export, send)] == [lossy.snapshot] * 3


def test_rescue_tells_which_blobs_read_what_was_salvaged(lossy: Lossy) -> None:
    done = run("rescue", lossy.path)
    assert (done.status, done.stderr.count("salvaged by a repair")) == (0, 3)
    assert warning(lossy, lossy.upper) in done.stderr
    blobs = json.loads(run("rescue", lossy.path, "--json").stdout)["blobs"]
    found = {blob["id"]: blob.get("salvaged") for blob in blobs}
    assert found == {
        lossy.snapshot: lossy.snapshot,
        lossy.clone: lossy.snapshot,
        lossy.upper: lossy.snapshot,
        lossy.other: None,
    }


def test_a_server_says_at_its_start_and_to_its_clients_what_was_salvaged(lossy: Lossy) -> None:
    with Blobstore.open(lossy.path, read_only=True) as store:
        (said,) = warnings_of(store, to_change=False)
        readers = ", ".join(f"{blob_id:#x}" for blob_id in sorted((lossy.clone, lossy.upper)))
        assert said == (
            f"{lossy.path}: blob {lossy.snapshot:#x}: was salvaged by a repair; "
            f"parts may be wrong, and what was lost reads as zeroes, in its clones too: {readers}"
        )
        exports = StoreExports(store)
        marked = {name for name, text in exports.listed() if "salvaged: lost data" in text}
        assert marked == {"mail", "mail@1", "mail@2"}
        for name in ("mail", "other"):
            with closing(exports.open(name)) as export:
                assert ("salvaged" in export.description) == (name == "mail")


def test_a_server_says_at_its_start_which_blobs_cannot_be_used_and_why_nothing_can_be_changed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "disk.img"
    store = Blobstore.create(path, size="16MiB", cluster_size=CLUSTER)
    bad = store.create_blob(CLUSTER).id
    copy = path.read_bytes()  # not unloaded, as a killed server leaves it
    page = store.info.md_start + bad % 2**32
    store.close()
    for content in (copy, path.read_bytes()):
        damaged = bytearray(content)
        damaged[4096 * page + 100] ^= 1
        path.write_bytes(damaged)
        with Blobstore.open(path) as opened:
            *refused, unusable = warnings_of(opened, to_change=True)
            assert refused == (
                [f"{path}: nothing can be changed: {opened.read_only_reason}"]
                if opened.errors
                else []
            )
            assert unusable.startswith(f"{path}: blob {bad:#x}: page ")
            assert unusable.endswith("it cannot be used, `blobstore check` says more")
    with Blobstore.open(path, read_only=True) as opened:
        assert len([*warnings_of(opened, to_change=False)]) == 1
