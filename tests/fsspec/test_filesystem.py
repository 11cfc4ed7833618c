"""Volumes through fsspec: addresses, names, content, and who has the store open when."""

import os
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import fsspec
import pytest

from blobstore import (
    BusyError,
    InvalidArgumentError,
    NoSpaceError,
    ReadOnlyError,
    UnsupportedError,
    VolumeStore,
)
from blobstore.fsspec.filesystem import BlobstoreFileSystem
from tests.fsspec.conftest import CLUSTER
from tests.shared import CHECKOUT


def test_the_entry_point_of_the_package_is_the_file_system() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text()
    (line,) = text.split('[project.entry-points."fsspec.specs"]\n')[1].split("\n\n")[0].splitlines()
    name, value = line.split(" = ")
    entry = EntryPoint(name, value.strip('"'), "fsspec.specs")
    assert (entry.name, entry.load()) == ("blobstore", BlobstoreFileSystem)


def test_an_address_names_the_store_and_the_volume(path: Path) -> None:
    with fsspec.open(f"blobstore://{path}/debian", "wb") as file:
        file.write(b"system")
    with fsspec.open(f"blobstore://{path}/debian") as file:
        assert file.read() == b"system"
    filesystem, name = fsspec.url_to_fs(f"blobstore://{path}")
    assert name == ""
    assert filesystem.ls(name, detail=False) == ["debian"]
    assert filesystem.unstrip_protocol("debian") == f"blobstore://{path}/debian"
    with fsspec.open(f"simplecache::blobstore://{path}/debian", "rt") as text:
        assert text.read() == "system"


def test_a_relative_address_begins_in_the_working_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent.parent)
    with fsspec.open(f"blobstore://{path.parent.name}/store.img/logs/monday", "wb") as file:
        file.write(b"x")
    assert fsspec.url_to_fs(f"blobstore://{path}/logs")[0].ls("logs", detail=False) == [
        "logs/monday"
    ]


def test_a_store_that_is_not_there_is_a_file_that_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), fsspec.open(f"blobstore://{tmp_path}/no.img/name"):
        pass


def test_a_volume_that_is_not_there_is_a_file_that_is_not_found(
    filesystem: BlobstoreFileSystem,
) -> None:
    assert not filesystem.exists("name")
    for operation in (filesystem.info, filesystem.ls, filesystem.cat_file, filesystem.rm):
        with pytest.raises(FileNotFoundError, match="name"):
            operation("name")


def test_a_file_has_the_length_that_was_written_and_a_volume_that_of_its_clusters(
    path: Path, filesystem: BlobstoreFileSystem
) -> None:
    filesystem.pipe_file("file", b"abc")
    with VolumeStore.open(path) as store:
        store.create_volume("disk", "100KiB").write(b"disk")
        assert store["file"].size == CLUSTER
        assert store["file"].read(8) == b"abc".ljust(8, b"\0")
    assert (filesystem.size("file"), filesystem.size("disk")) == (3, 2 * CLUSTER)
    assert filesystem.cat_file("disk") == b"disk".ljust(2 * CLUSTER, b"\0")


def test_the_length_of_a_file_is_forgotten_when_its_volume_is_resized(
    path: Path, filesystem: BlobstoreFileSystem
) -> None:
    filesystem.pipe_file("file", b"abc")
    with VolumeStore.open(path) as store:
        store["file"].resize(3 * CLUSTER)
    assert filesystem.size("file") == 3 * CLUSTER


@pytest.mark.parametrize("value", [b"-1", b"many", b"9" * 30, b"70000"])
def test_a_length_that_cannot_be_is_ignored(
    path: Path, filesystem: BlobstoreFileSystem, value: bytes
) -> None:
    with VolumeStore.open(path) as store:
        store.create_volume("odd", CLUSTER, xattrs={"blobstore.length": value})
    assert filesystem.size("odd") == CLUSTER


def test_a_large_file_grows_with_what_is_written(filesystem: BlobstoreFileSystem) -> None:
    data = os.urandom(1 << 20)
    with filesystem.open("large", "wb", block_size=100_000) as file:
        for start in range(0, len(data), 77_777):
            file.write(data[start : start + 77_777])
    assert filesystem.cat_file("large") == data
    with filesystem.open("large", "rb", block_size=5000) as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == data[-10:]
        file.seek(3)
        assert file.read(100_000) == data[3:100_003]


def test_lines_of_text_are_read(filesystem: BlobstoreFileSystem) -> None:
    lines = [f"line {number}\n" for number in range(1000)]
    with filesystem.open("text", "w") as file:
        file.writelines(lines)
    with filesystem.open("text", "r") as file:
        assert list(file) == lines


def test_a_snapshot_is_read_and_not_written(path: Path, filesystem: BlobstoreFileSystem) -> None:
    filesystem.pipe_file("debian", b"monday")
    filesystem.snapshot("debian", "debian@monday")
    with VolumeStore.open(path) as store:
        store["debian"].write(b"sunday")
    assert filesystem.cat(["debian", "debian@monday"]) == {
        "debian": b"sunday",
        "debian@monday": b"monday",
    }
    assert filesystem.info("debian@monday")["snapshot"]
    with pytest.raises(PermissionError):
        filesystem.mv("debian@monday", "other")


def test_a_snapshot_is_not_replaced_by_what_is_written_copied_or_renamed_to_its_name(
    filesystem: BlobstoreFileSystem,
) -> None:
    filesystem.pipe({"debian": b"monday", "other": b"other"})
    filesystem.snapshot("debian", "debian@monday")
    for change in (
        lambda: filesystem.pipe_file("debian@monday", b"new"),
        lambda: filesystem.cp_file("other", "debian@monday"),
        lambda: filesystem.mv("other", "debian@monday"),
    ):
        with pytest.raises(ReadOnlyError, match="is not replaced"):
            change()
    file = filesystem.open("debian", "wb", block_size=CLUSTER)
    file.write(b"new" * CLUSTER)
    with filesystem.use_store(writable=True) as store, store.open_volume("debian") as volume:
        volume.set_attributes({}, read_only=True)
    with pytest.raises(ReadOnlyError):
        file.close()
    assert filesystem.cat(filesystem.find("")) == {
        "debian": b"monday",
        "debian@monday": b"monday",
        "other": b"other",
    }


def test_a_name_that_is_no_path_is_not_listed_and_makes_no_directory(
    path: Path, filesystem: BlobstoreFileSystem
) -> None:
    with VolumeStore.open(path) as store:
        for name in ("/", "//", "/x", "y/", "a//b", "z/z"):
            store.create_volume(name, CLUSTER)
    assert filesystem.find("") == ["z/z"]
    assert filesystem.ls("", detail=False) == ["z"]
    assert not filesystem.isdir("y")
    assert filesystem.info("a//b")["size"] == CLUSTER


def test_one_file_is_deleted_by_its_name_and_not_by_a_pattern(
    filesystem: BlobstoreFileSystem,
) -> None:
    filesystem.pipe({"a*b": b"1", "a1b": b"2", "d/e": b"3"})
    filesystem.rm_file("a*b")
    assert filesystem.find("") == ["a1b", "d/e"]
    with pytest.raises(FileNotFoundError):
        filesystem.rm_file("a*b")
    with pytest.raises(IsADirectoryError):
        filesystem.rm_file("d")


def test_only_whole_files_are_read_and_written(filesystem: BlobstoreFileSystem) -> None:
    for mode in ("ab", "r+b"):
        with pytest.raises(UnsupportedError, match="expected 'rb', 'wb' or 'xb'"):
            filesystem.open("name", mode)


def test_a_file_whose_body_fails_leaves_what_was_there(filesystem: BlobstoreFileSystem) -> None:
    filesystem.pipe_file("file", b"old")

    def fail_in_the_middle() -> None:
        with filesystem.open("file", "wb", block_size=10) as file:
            file.write(b"x" * CLUSTER)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert filesystem.ls("", detail=False) == ["file"]
    assert filesystem.cat_file("file") == b"old"


def test_a_file_for_which_there_is_no_space_leaves_what_was_there(
    filesystem: BlobstoreFileSystem,
) -> None:
    filesystem.pipe_file("file", b"old")
    with pytest.raises(NoSpaceError):
        filesystem.pipe_file("file", b"x" * (20 << 20))
    assert filesystem.ls("", detail=False) == ["file"]
    assert filesystem.cat_file("file") == b"old"


def test_files_of_a_transaction_appear_at_its_end_or_not_at_all(
    filesystem: BlobstoreFileSystem,
) -> None:
    with filesystem.transaction:
        filesystem.pipe_file("a", b"1")
        filesystem.pipe_file("b", b"2")
        assert not filesystem.exists("a")
    assert filesystem.cat(["a", "b"]) == {"a": b"1", "b": b"2"}

    def fail_in_the_middle() -> None:
        with filesystem.transaction:
            filesystem.pipe_file("a", b"3")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert filesystem.cat_file("a") == b"1"
    assert filesystem.ls("", detail=False) == ["a", "b"]


def test_an_exclusive_file_that_comes_too_late_is_an_error_and_replaces_nothing(
    path: Path,
) -> None:
    with VolumeStore.open(path) as store:
        filesystem = BlobstoreFileSystem(store)
        file = filesystem.open("name", "xb")
        file.write(b"late")
        filesystem.pipe_file("name", b"early")
        with pytest.raises(FileExistsError):
            file.close()
        assert filesystem.cat_file("name") == b"early"
        assert filesystem.ls("", detail=False) == ["name"]


def test_a_name_that_no_volume_can_have_is_refused_before_anything_is_written(
    filesystem: BlobstoreFileSystem,
) -> None:
    for name in ("x" * 64, ""):
        with pytest.raises(InvalidArgumentError, match="bytes, expected 1 to 63"):
            filesystem.pipe_file(name, b"x")
    assert filesystem.ls("") == []


def test_a_rename_copies_nothing_and_keeps_the_uuid(filesystem: BlobstoreFileSystem) -> None:
    filesystem.pipe({"a": b"1", "b": b"2", "dir/c": b"3"})
    uuid = filesystem.info("a")["uuid"]
    filesystem.mv("a", "b")
    assert filesystem.info("b")["uuid"] == uuid
    filesystem.mv("b", "dir")
    assert filesystem.find("") == ["dir/b", "dir/c"]
    assert filesystem.info("dir/b")["uuid"] == uuid
    filesystem.mv("dir", "other", recursive=True)
    assert filesystem.find("") == ["other/b", "other/c"]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        pytest.param("one@monday", "two", ReadOnlyError, id="a snapshot"),
        pytest.param("one", "t" * 64, InvalidArgumentError, id="too long a name"),
    ],
)
def test_a_rename_that_cannot_be_deletes_nothing(
    filesystem: BlobstoreFileSystem, old: str, new: str, error: type[OSError]
) -> None:
    filesystem.pipe({"one": b"1", "two": b"2"})
    filesystem.snapshot("one", "one@monday")
    with pytest.raises(error):
        filesystem.mv(old, new)
    assert filesystem.cat(["one", "two", "one@monday"]) == {
        "one": b"1",
        "two": b"2",
        "one@monday": b"1",
    }


def test_a_copy_keeps_holes(path: Path, filesystem: BlobstoreFileSystem) -> None:
    with VolumeStore.open(path) as store:
        store.create_volume("thin", 100 * CLUSTER, thin=True).write(b"x", 50 * CLUSTER)
    filesystem.cp_file("thin", "copy")
    assert filesystem.info("copy")["allocated"] == CLUSTER
    assert filesystem.cat_file("copy") == filesystem.cat_file("thin")


def test_ranges_of_several_files_are_read_at_once(filesystem: BlobstoreFileSystem) -> None:
    filesystem.pipe({"a": b"0123456789", "b": b"abcdef"})
    found = filesystem.cat_ranges(["a", "b", "a", "c"], [2, -3, 8, 0], [4, None, 100, 1])
    assert found[:3] == [b"23", b"def", b"89"]
    assert isinstance(found[3], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        filesystem.cat_ranges(["c"], 0, 1, on_error="raise")


def test_a_directory_is_removed_with_all_that_is_in_it_and_only_if_told(
    filesystem: BlobstoreFileSystem,
) -> None:
    filesystem.pipe({"a": b"1", "dir/b": b"2", "dir/sub/c": b"3"})
    with pytest.raises(IsADirectoryError):
        filesystem.rm("dir")
    with pytest.raises(IsADirectoryError):
        filesystem.cat_file("dir")
    filesystem.rm("dir", recursive=True)
    assert filesystem.find("") == ["a"]


def test_between_two_operations_the_store_is_free_for_others(
    path: Path, filesystem: BlobstoreFileSystem
) -> None:
    filesystem.pipe_file("a", b"1")
    VolumeStore.open(path).close()
    with filesystem.open("a") as file:
        with pytest.raises(BusyError):
            VolumeStore.open(path)
        VolumeStore.open(path, read_only=True).close()
        assert file.read() == b"1"
    VolumeStore.open(path).close()


def test_a_store_that_is_read_is_not_changed(path: Path, filesystem: BlobstoreFileSystem) -> None:
    filesystem.pipe_file("a", b"1")
    before = path.read_bytes()
    assert filesystem.cat_file("a") == b"1"
    assert filesystem.du("") == 1
    assert path.read_bytes() == before


def test_writing_while_a_file_is_read_needs_a_writable_file_system(path: Path) -> None:
    filesystem = BlobstoreFileSystem(str(path))
    filesystem.pipe_file("a", b"1")
    with (
        filesystem.open("a") as file,
        pytest.raises(BusyError, match="expected none or writable=True"),
    ):
        filesystem.pipe_file("b", file.read())
    filesystem = BlobstoreFileSystem(str(path), writable=True)
    with filesystem.open("a") as file:
        filesystem.pipe_file("b", file.read())
    assert filesystem.cat_file("b") == b"1"


def test_several_file_systems_of_a_process_share_the_store(path: Path) -> None:
    first, second = BlobstoreFileSystem(str(path)), BlobstoreFileSystem(os.path.relpath(path))
    with first.open("a", "wb") as file:
        file.write(b"1")
        second.pipe_file("b", b"2")
        file.write(b"1")
    assert second.cat(["a", "b"]) == {"a": b"11", "b": b"2"}


def test_another_process_gets_the_file_system_by_pickle(
    path: Path, filesystem: BlobstoreFileSystem
) -> None:
    filesystem.pipe_file("a", b"1")
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).read())"
    with filesystem.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=pickle.dumps(file),
            capture_output=True,
            check=True,
        )
    assert done.stdout == b"b'1'\n"


def test_a_volume_of_a_damaged_snapshot_is_listed_with_the_error_and_the_rest_is_read(
    path: Path, filesystem: BlobstoreFileSystem
) -> None:
    filesystem.pipe({"a": b"1", "b": b"2"})
    filesystem.snapshot("b", "b@monday")
    content = path.read_bytes()
    at = content.rindex(b"blobstore.length")
    path.write_bytes(content[:at] + b"B" + content[at + 1 :])
    whole, broken = filesystem.ls("")
    assert (whole["name"], whole["size"]) == ("a", 1)
    assert (broken["name"], broken["size"], broken["type"]) == ("b", None, "other")
    assert "crc" in broken["error"]
    assert filesystem.cat_file("a") == b"1"
