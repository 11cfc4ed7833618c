"""xattr list, get, set, remove; names are any bytes."""

import os
from pathlib import Path

from blobstore import Blobstore
from tests.cli.conftest import Image
from tests.cli.runner import run

HOSTILE = b"\x1b[2J\xff\n"


def xattrs_of(image: Image) -> dict[str, bytes]:
    with Blobstore.open(image.path, read_only=True) as store, store.open_blob(image.thin) as blob:
        return blob.info.xattrs


def test_set_takes_text_hex_and_a_file(image: Image, tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(b"\0\1\2")
    blob = str(image.thin)
    done = run("xattr", "set", image.path, blob, "text", "ümlaut", "--json").json
    assert done == {"id": image.thin, "name": "text", "value": "ümlaut".encode().hex()}
    assert run("xattr", "set", image.path, blob, "hex", "hex:00 ff").stdout == b""
    assert run("xattr", "set", image.path, blob, "file", f"@{tmp_path}/value").status == 0
    found = xattrs_of(image)
    assert (found["text"], found["hex"]) == ("ümlaut".encode(), b"\0\xff")
    assert found["file"] == b"\0\1\2"


def test_get_writes_the_raw_bytes(image: Image) -> None:
    with Blobstore.open(image.path) as store, store.open_blob(image.thin) as blob:
        blob.set_xattr("raw", b"\0\xff\n")
    assert run("xattr", "get", image.path, str(image.thin), "raw").stdout == b"\0\xff\n"
    done = run("xattr", "get", image.path, str(image.thin), "raw", "--json").json
    assert done == {"id": image.thin, "name": "raw", "value": "00ff0a"}


def test_list_keeps_the_order_on_disk(image: Image) -> None:
    run("xattr", "set", image.path, str(image.thin), "a", "1")
    done = run("xattr", "list", image.path, str(image.thin), "--json").json
    assert list(done["xattrs"].items()) == [("name", b"beta".hex()), ("a", "31")]
    assert run("xattr", "list", image.path, str(image.thin)).text == "name  beta\na     1\n"


def test_remove_removes(image: Image) -> None:
    done = run("xattr", "remove", image.path, str(image.thin), "name", "--json").json
    assert done == {"id": image.thin, "name": "name"}
    assert xattrs_of(image) == {}
    assert run("xattr", "list", image.path, str(image.thin)).stdout == b""


def test_an_attribute_that_is_not_there_is_an_error(image: Image) -> None:
    for action in ("get", "remove"):
        done = run("xattr", action, image.path, str(image.thin), "nothing", "--json")
        assert (done.status, done.error["errno"]) == (1, "ENOENT")


def test_a_value_that_fits_no_page_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(5000))
    (tmp_path / "huge").write_bytes(bytes(70000))
    for name, errno in (("large", "ENOMEM"), ("huge", "EINVAL")):
        value = f"@{tmp_path}/{name}"
        done = run("xattr", "set", image.path, str(image.thin), "key", value, "--json")
        assert done.error["errno"] == errno


def test_a_name_of_any_bytes_goes_in_and_comes_out(image: Image) -> None:
    blob = str(image.thin)
    assert run("xattr", "set", image.path, blob, HOSTILE, "value").status == 0
    assert os.fsdecode(HOSTILE) in xattrs_of(image)
    assert run("xattr", "get", image.path, blob, HOSTILE).stdout == b"value"


def test_a_name_of_any_bytes_is_escaped_in_text(image: Image) -> None:
    run("xattr", "set", image.path, str(image.thin), HOSTILE, HOSTILE)
    line = run("xattr", "list", image.path, str(image.thin)).text.splitlines()[1]
    assert line.split() == ["\\x1b[2J\\xff\\n", "hex:1b5b324aff0a"]
    assert "xattr \\x1b[2J\\xff\\n" in run("show", image.path, str(image.thin)).text


def test_a_name_that_is_no_unicode_is_valid_json_and_like_no_other_name(image: Image) -> None:
    names = [b"a\xff", b"a\\xff", b"a\\\\xff", "a\\ü".encode()]
    with Blobstore.open(image.path) as store, store.open_blob(image.thin) as blob:
        for index, name in enumerate(names):
            blob.set_xattr(os.fsdecode(name), bytes([index]))
    found = run("xattr", "list", image.path, str(image.thin), "--json").json["xattrs"]
    assert list(found.items())[1:] == [
        ("a\\xff", "00"), ("a\\\\xff", "01"), ("a\\\\\\\\xff", "02"), ("a\\ü", "03"),
    ]  # fmt: skip


def test_a_hostile_blob_name_cannot_disturb_the_list(image: Image) -> None:
    with Blobstore.open(image.path) as store, store.open_blob(image.thin) as blob:
        blob.set_xattr("name", HOSTILE)
    assert "hex:1b5b324aff0a" in run("list", image.path).text
