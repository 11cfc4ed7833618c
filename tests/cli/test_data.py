"""read and write."""

import os
import subprocess
from pathlib import Path

import pytest

from blobstore import Blobstore
from blobstore.units import MIB
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import COMMAND, run, unchanged


def content(image: Image, blob_id: int) -> bytes:
    with Blobstore.open(image.path, read_only=True) as store, store.open_blob(blob_id) as blob:
        return blob.read(blob.size)


def test_write_takes_standard_input_and_an_offset(image: Image) -> None:
    done = run("write", image.path, str(image.thin), "--offset", "64K", stdin=b"hello")
    assert (done.status, done.stdout) == (0, b"")
    assert content(image, image.thin)[CLUSTER : CLUSTER + 6] == b"hello\0"


def test_write_takes_a_dash_for_standard_input(image: Image) -> None:
    done = run("write", image.path, str(image.thin), "-", "--json", stdin=b"hello").json
    assert done == {"id": image.thin, "offset": 0, "length": 5}
    assert content(image, image.thin)[:6] == b"hello\0"


def test_write_takes_a_file_of_any_length(image: Image, tmp_path: Path) -> None:
    data = bytes(range(251)) * 4000
    (tmp_path / "data").write_bytes(data)
    done = run("write", image.path, str(image.thin), tmp_path / "data", "--offset", "7", "--json")
    assert done.json["length"] == len(data)
    assert content(image, image.thin)[7 : 7 + len(data)] == data


def test_write_beyond_the_end_is_refused(image: Image) -> None:
    offset = str(4 * CLUSTER - 2)
    done = run("write", image.path, str(image.thick), "--offset", offset, "--json", stdin=b"hello")
    assert (done.status, done.error["errno"]) == (1, "EINVAL")
    assert content(image, image.thick)[-2:] == b"\0\0"


@pytest.mark.parametrize("way", ["by name", "redirected"])
def test_a_file_larger_than_the_blob_is_refused_before_anything_is_written(
    image: Image, tmp_path: Path, way: str
) -> None:
    same = unchanged(image.path)
    source = tmp_path / "large"
    source.write_bytes(b"x" * (4 * CLUSTER))
    command = [*COMMAND, "write", str(image.path), str(image.thick), "--offset", "1"]
    with source.open("rb") as stream:
        files = [str(source)] if way == "by name" else []
        done = subprocess.run(
            [*command, *files], stdin=stream, capture_output=True, check=False, text=True
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"{image.path}: blob {image.thick:#x}: 262144 bytes at 1: outside of 262144 bytes; "
        "nothing is written\n"
    )
    assert same()


def test_a_stream_larger_than_the_blob_says_how_much_of_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size="16MiB") as store:
        blob_id = store.create_blob("1MiB").id
    done = run("write", path, str(blob_id), stdin=b"x" * (MIB + 1))
    assert done.status == 1
    assert done.stderr.endswith("outside of 1048576 bytes; 1048576 bytes are written\n")


def test_a_write_from_a_file_that_is_not_there_changes_nothing(image: Image) -> None:
    same = unchanged(image.path)
    assert run("write", image.path, str(image.thick), "/no/such/file").status == 1
    assert same()


def test_read_gives_the_whole_blob_unless_told(image: Image) -> None:
    assert run("read", image.path, str(image.thin)).stdout == content(image, image.thin)


def test_read_gives_a_part(image: Image) -> None:
    part = ("--offset", str(2 * CLUSTER), "--length", "6")
    assert run("read", image.path, str(image.thin), *part).stdout == b"thinth"
    assert run("read", image.path, str(image.thick), "--length", "0").stdout == b""
    assert run("read", image.path, str(image.thick), "--offset", "262140").stdout == bytes(4)


def test_read_as_json_is_hex(image: Image) -> None:
    done = run("read", image.path, str(image.thick), "--offset", "1", "--length", "4", "--json")
    assert done.json == {
        "id": image.thick, "offset": 1, "length": 4, "data": b"hick".hex(),
    }  # fmt: skip


def test_read_beyond_the_end_is_refused_before_the_first_byte(image: Image) -> None:
    for offset, length in ((0, 1 << 30), (1, 4 * CLUSTER), (1 << 40, 1)):
        part = ("--offset", str(offset), "--length", str(length))
        done = run("read", image.path, str(image.thick), *part, "--json")
        assert (done.status, done.error["errno"]) == (1, "EINVAL")
        assert done.error["message"] == (
            f"{image.path}: blob {image.thick:#x}: {length} bytes at {offset}: outside of "
            f"{4 * CLUSTER} bytes"
        )
        assert run("read", image.path, str(image.thick), *part).stdout == b""


def test_reading_to_the_end_from_beyond_it_is_refused(image: Image) -> None:
    done = run("read", image.path, str(image.thin), "--offset", "1T")
    assert (done.status, done.stdout) == (1, b"")
    assert "offset 1099511627776: outside of" in done.stderr
    at_end = run(
        "read", image.path, str(image.thin), "--offset", str(len(content(image, image.thin)))
    )
    assert (at_end.status, at_end.stdout) == (0, b"")


def test_export_to_a_dash_is_a_usage_error(image: Image, tmp_path: Path) -> None:
    assert run("export", image.path, str(image.thin), "-").status == 2
    assert not (Path.cwd() / "-").exists()


def test_a_store_that_does_not_open_is_named_with_what_to_do_next(tmp_path: Path) -> None:
    (tmp_path / "torn.img").write_bytes(bytes(1 << 20))
    done = run("list", tmp_path / "torn.img")
    assert done.status == 1
    path = tmp_path / "torn.img"
    assert done.stderr == (
        f"{path}: no blobstore, or its super block is lost: begins with {bytes(8)!r}, expected "
        "b'SPDKBLOB'; `blobstore check` says more; what can be read of it: "
        f"blobstore rescue {path}\n"
    )


def test_read_gives_more_than_one_part_of_a_blob_as_json(tmp_path: Path) -> None:
    data = os.urandom(3 * 1024 * 1024)
    with Blobstore.create(tmp_path / "disk.img", size="16MiB") as store:
        blob = store.create_blob(len(data))
        blob.write(data)
    assert run("read", tmp_path / "disk.img", hex(blob.id), "--json").json["data"] == data.hex()
