"""Commands on a volume store: names, uuids, and what a volume refuses."""

import json
import re
import shlex
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from blobstore import Blobstore, VolumeStore
from tests.cli.runner import run
from tests.cli.schema import STORE, conforms
from tests.golden.images import load_image
from tests.shared import CHECKOUT


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A volume store `vms` with a thin volume `db`."""
    path = tmp_path / "disk.img"
    assert (
        run("init", path, "--size", "16MiB", "--cluster-size", "64KiB", "--volumes", "vms").status
        == 0
    )
    assert run("create", path, "db", "--size", "1MiB", "--thin").status == 0
    return path


def uuid_of(image: Path, name: str) -> str:
    with VolumeStore.open(image, read_only=True) as vms:
        return vms.volume_info(name).unique_id


def names(image: Path) -> list[str]:
    with VolumeStore.open(image, read_only=True) as vms:
        return [info.name for info in vms]


def test_init_makes_a_volume_store_and_says_its_name_and_uuid(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    made = run("init", path, "--size", "64MiB", "--volumes", "vms", "--json").json
    assert conforms(made, {**STORE, "name": str, "uuid": str})
    with VolumeStore.open(path) as vms:
        assert (vms.name, str(vms.uuid)) == (made["name"], made["uuid"]) == ("vms", made["uuid"])
        assert vms.cluster_size == 4 << 20
    assert run("info", path, "--json").json == made
    assert f"uuid          {made['uuid']}" in run("info", path).text


def test_init_with_a_bad_name_leaves_no_file(tmp_path: Path) -> None:
    for name in ("", "x" * 64):
        failed = run("init", tmp_path / "a", "--size", "64MiB", "--volumes", name, "--json")
        assert (failed.status, failed.error["errno"]) == (1, "EINVAL")
    assert not (tmp_path / "a").exists()


def test_volumes_and_a_type_of_ones_own_do_not_go_together(tmp_path: Path) -> None:
    refused = run("init", tmp_path / "a", "--size", "64MiB", "--volumes", "v", "--type", "X")
    assert refused.status == 2


def test_what_makes_a_volume_prints_its_id_name_and_uuid(image: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x" * 5000)
    made = [
        run("create", image, "a", "--size", "1MiB", "--json").json,
        run("snapshot", image, "db", "b", "--json").json,
        run("clone", image, "b", "c", "--json").json,
        run("import", image, tmp_path / "raw", "--name", "d", "--json").json,
    ]
    assert [list(fields) for fields in made] == [["id", "name", "uuid"]] * 4
    with VolumeStore.open(image) as vms:
        for fields, name in zip(made, "abcd", strict=True):
            info = vms.volume_info(name)
            assert (info.id, info.name, str(info.uuid)) == tuple(fields.values())
    printed = run("create", image, "e", "--size", "1MiB").text.split()
    assert printed[1] == uuid_of(image, "e")


def test_the_name_on_disk_of_an_imported_volume_fills_64_bytes(image: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x")
    blob_id = run("import", image, tmp_path / "raw", "--name", "d", "--json").json["id"]
    with Blobstore.open(image) as store, store.open_blob(blob_id) as blob:
        assert blob.xattrs["name"] == b"d".ljust(64, b"\0")
        assert list(blob.xattrs) == ["name", "uuid"]


@pytest.mark.parametrize("command", [["create", "--size", "1MiB"], ["snapshot", "db"]])
def test_a_volume_without_a_name_is_refused(image: Path, command: list[str]) -> None:
    failed = run(command[0], image, *command[1:], "--json")
    assert (failed.status, failed.error["errno"]) == (1, "EINVAL")
    assert "needs a NAME" in failed.error["message"]
    assert names(image) == ["db"]


def test_a_taken_name_is_refused_whatever_makes_or_renames_a_volume(
    image: Path, tmp_path: Path
) -> None:
    (tmp_path / "raw").write_bytes(b"x")
    run("snapshot", image, "db", "s")
    commands: list[list[str | Path]] = [
        ["create", image, "s", "--size", "1MiB"],
        ["snapshot", image, "db", "s"],
        ["clone", image, "s", "db"],
        ["import", image, tmp_path / "raw", "--name", "db"],
        ["rename", image, "db", "s"],
    ]
    for command in commands:
        failed = run(*command, "--json")
        assert (failed.status, failed.error["errno"]) == (1, "EEXIST"), command
    assert names(image) == ["db", "s"]


def test_a_volume_is_named_by_its_name_uuid_alias_and_id(image: Path) -> None:
    uuid, blob_id = uuid_of(image, "db"), run("show", image, "db", "--json").json["id"]
    for which in ("db", uuid, uuid.upper(), "vms/db", str(blob_id), hex(blob_id)):
        assert run("show", image, which, "--json").json["id"] == blob_id
    missing = run("show", image, "d", "--json")
    assert missing.error == {"errno": "ENOENT", "message": f"{image}: no volume 'd'"}


def test_list_has_names_and_uuids_the_super_blob_those_of_the_store(image: Path) -> None:
    info = run("info", image, "--json").json
    super_blob, volume = run("list", image, "--json").json["blobs"]
    assert (super_blob["name"], super_blob["uuid"]) == ("vms", info["uuid"])
    assert (volume["name"], volume["uuid"]) == ("db", uuid_of(image, "db"))
    assert super_blob["id"] == info["super_blob"]
    assert volume["uuid"] in run("list", image).text


def test_blobs_of_a_plain_store_have_no_uuid(tmp_path: Path) -> None:
    path = tmp_path / "plain.img"
    run("init", path, "--size", "16MiB")
    assert list(run("create", path, "a", "--size", "1MiB", "--json").json) == ["id"]
    (blob,) = run("list", path, "--json").json["blobs"]
    assert {"name", "uuid"}.isdisjoint(blob)
    assert {"name", "uuid"}.isdisjoint(run("info", path, "--json").json)


def test_a_rename_keeps_the_uuid(image: Path) -> None:
    uuid = uuid_of(image, "db")
    renamed = run("rename", image, "db", "web", "--json").json
    assert (renamed["name"], renamed["uuid"]) == ("web", uuid)
    assert names(image) == ["web"]
    run("snapshot", image, "web", "s")
    assert run("rename", image, "s", "t", "--json").error["errno"] == "EPERM"


def test_rename_store_and_reid(image: Path) -> None:
    before = {uuid_of(image, "db"), run("info", image, "--json").json["uuid"]}
    assert run("rename-store", image, "farm", "--json").json["name"] == "farm"
    fresh = run("reid", image, "--name", "copy", "--json").json
    info = run("info", image, "--json").json
    assert (info["name"], info["uuid"]) == ("copy", fresh["uuid"]) == (fresh["name"], info["uuid"])
    assert before.isdisjoint({info["uuid"], uuid_of(image, "db")})
    assert run("reid", image).text.strip() == run("info", image, "--json").json["uuid"]


@pytest.mark.parametrize("command", [["rename-store", "x"], ["reid"]])
def test_a_plain_store_has_no_name_and_no_uuid(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "plain.img"
    run("init", path, "--size", "16MiB")
    failed = run(command[0], path, *command[1:], "--json")
    assert (failed.status, failed.error["errno"]) == (1, "ENXIO")


@pytest.mark.parametrize("name", ["name", "uuid"])
@pytest.mark.parametrize("which", ["db", "0x100000000"])
def test_the_attributes_of_an_identity_are_not_set_by_hand(
    image: Path, which: str, name: str
) -> None:
    commands: list[list[str | Path]] = [
        ["set", image, which, name, "x"],
        ["remove", image, which, name],
    ]
    for command in commands:
        failed = run("xattr", *command, "--json")
        assert (failed.status, failed.error["errno"]) == (1, "EINVAL")
    assert names(image) == ["db"]


def test_create_refuses_reserved_attributes_and_runs(image: Path) -> None:
    for more in (["--xattr", "uuid=x"], ["--xattr", "name=x"], ["--extents", "runs"]):
        failed = run("create", image, "a", "--size", "1MiB", *more, "--json")
        assert (failed.status, failed.error["errno"]) == (1, "EINVAL")
    assert names(image) == ["db"]


def test_the_super_blob_stays(image: Path) -> None:
    commands: list[list[str | Path]] = [["super", "set", image, "db"], ["super", "clear", image]]
    for command in commands:
        failed = run(*command, "--json")
        assert (failed.status, failed.error["errno"]) == (1, "EINVAL")
    assert run("delete", image, "0x100000000", "--yes", "--json").error["errno"] == "ENOENT"
    assert names(image) == ["db"]


def test_data_are_written_read_exported_and_deleted_by_name(image: Path, tmp_path: Path) -> None:
    assert run("write", image, "db", stdin=b"hello").status == 0
    assert run("read", image, uuid_of(image, "db"), "--length", "5").stdout == b"hello"
    assert run("export", image, "vms/db", tmp_path / "out", "--length", "5").status == 0
    assert (tmp_path / "out").read_bytes() == b"hello"
    assert run("delete", image, "db", "--yes").status == 0
    assert names(image) == []
    assert run("check", image).status == 0


def test_an_import_that_fails_leaves_no_volume(image: Path, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    failed = run("import", image, tmp_path / "huge", "--name", "h", "--json")
    assert (failed.status, failed.error["errno"]) == (1, "ENOSPC")
    assert names(image) == ["db"]


def test_an_external_snapshot_is_named_by_its_uuid(image: Path, tmp_path: Path) -> None:
    golden, uuid = tmp_path / "golden", "0b2f0af5-4f3a-4c8c-9f1f-2f3c3b0c6a11"
    golden.write_bytes(b"golden".ljust(65536, b"\0"))
    source = ["--external", f"{uuid.upper()}={golden}"]
    made = run(
        "create", image, "e", "--size", "64KiB", "--external-snapshot", uuid, *source, "--json"
    )
    assert made.json["name"] == "e"
    assert run("read", image, "e", "--length", "6", *source).stdout == b"golden"
    shown = run("show", image, "e", "--json").json
    assert bytes.fromhex(shown["external_snapshot"]) == uuid.encode() + b"\0"


def test_a_shell_works_on_a_volume_store(image: Path) -> None:
    script = b"create a --size 1MiB\nrename a b\nsnapshot db s\nrename-store farm\n"
    done = run("shell", image, "--json", stdin=script)
    assert done.status == 0
    assert json.loads(done.stdout.splitlines()[1])["name"] == "b"
    assert names(image) == ["b", "db", "s"] or names(image) == ["db", "b", "s"]
    assert run("info", image, "--json").json["name"] == "farm"


def test_a_volume_store_that_lost_its_super_blob_is_still_listed(image: Path) -> None:
    with Blobstore.open(image) as store:
        store.set_super_blob(None)
    blobs = run("list", image, "--json").json["blobs"]
    assert [bytes.fromhex(blob["xattrs"]["name"]).rstrip(b"\0") for blob in blobs] == [
        b"vms",
        b"db",
    ]
    assert run("super", "set", image, "0x100000000").status == 0
    assert names(image) == ["db"]


@pytest.mark.parametrize("name", ["lvolstore_bl4096_clean", "lvolstore_bl4096_dirty"])
def test_a_golden_volume_store_shows_its_names_and_uuids(name: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.img"
    path.write_bytes(load_image(name))
    info = run("info", path, "--json").json
    assert str(UUID(info["uuid"])) == info["uuid"]
    for blob in run("list", path, "--json").json["blobs"]:
        assert bytes.fromhex(blob["xattrs"]["uuid"]).rstrip(b"\0").decode() == blob["uuid"]
        assert bytes.fromhex(blob["xattrs"]["name"]).rstrip(b"\0").decode() == blob["name"]
    assert path.read_bytes() == load_image(name)


_CONSOLE: Final = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def test_the_commands_of_the_guide_print_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (CHECKOUT / "docs" / "guide-volumes.md").read_text(encoding="utf-8")
    commands = "".join(_CONSOLE.findall(guide)).split("$ blobstore ")[1:]
    assert len(commands) == 8
    for command in commands:
        line, _end, shown = command.partition("\n")
        done = run(*shlex.split(line))
        if not line.startswith("init"):
            assert _UUID.sub("UUID", done.text + done.stderr) == _UUID.sub("UUID", shown), line
