"""qcow2 through qemu-img, which here is a script that knows one header and nothing else."""

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from blobstore import InvalidArgumentError
from blobstore.cli.qcow2_tables import check_whole
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run

HEAD = struct.pack(">4sIQII", b"QFI\xfb", 3, 0, 0, 16).ljust(104, b"\0")
FAKE = """#!/bin/sh
[ "$1 $2 $4 $6" = "convert -f -O --" ] || { echo "unexpected: $*" >&2; exit 1; }
case "$3 $5" in
"raw qcow2")
    {
        printf 'QFI\\373\\0\\0\\0\\003'; head -c 12 /dev/zero
        printf '\\0\\0\\0\\020'; head -c 80 /dev/zero
        cat "$7"
    } > "$8" ;;
"qcow2 raw") tail -c +105 "$7" > "$8" ;;
*) exit 1 ;;
esac
"""


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """An environment in which qemu-img is the fake."""
    directory = tmp_path / "bin"
    directory.mkdir()
    script = directory / "qemu-img"
    script.write_text(FAKE)
    script.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


def test_without_qemu_img_the_error_says_so(image: Image, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(HEAD)
    for arguments in (
        ("import", image.path, tmp_path / "in"),
        ("export", image.path, str(image.thin), tmp_path / "out"),
    ):
        nowhere = {"PATH": str(tmp_path)}
        done = run(*arguments, "--format", "qcow2", "--json", environment=nowhere)
        assert (done.status, done.error["errno"]) == (1, "ENOTSUP")
        assert "qemu-img" in done.error["message"]


def test_a_blob_goes_out_as_qcow2_and_in_again(
    image: Image, tmp_path: Path, tools: dict[str, str]
) -> None:
    out = tmp_path / "out.qcow2"
    export = ("export", image.path, str(image.thick), out, "--format", "qcow2")
    assert run(*export, environment=tools).status == 0
    assert out.read_bytes()[: len(HEAD)] == HEAD
    assert run(*export, "--json", environment=tools).error["errno"] == "EEXIST"
    assert run(*export, "--yes", environment=tools).status == 0
    done = run("import", image.path, out, "--format", "qcow2", "--thin", environment=tools)
    digests = [
        blob["sha256"]
        for blob in run("list", image.path, "--sha256", "--json").json["blobs"]
        if blob["id"] in (image.thick, int(done.text, 16))
    ]
    assert len(digests) == 2
    assert digests[0] == digests[1]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".blobstore-")]


def test_a_qcow2_image_is_not_exported_through_a_symlink(
    image: Image, tmp_path: Path, tools: dict[str, str]
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    export = ("export", image.path, str(image.thick), tmp_path / "link", "--format", "qcow2")
    done = run(*export, "--yes", "--json", environment=tools)
    assert done.error["errno"] == "ELOOP"
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        pytest.param(b"raw data", "no qcow2 image", id="no image"),
        pytest.param(
            struct.pack(">4sIQ", b"QFI\xfb", 2, 104).ljust(104, b"\0"), "another file", id="backing"
        ),
        pytest.param(HEAD[:72] + struct.pack(">Q", 4) + HEAD[80:], "another file", id="data file"),
    ],
)
def test_what_an_image_names_is_never_opened(
    image: Image, tmp_path: Path, tools: dict[str, str], head: bytes, message: str
) -> None:
    (tmp_path / "in").write_bytes(head)
    arguments = ("import", image.path, tmp_path / "in", "--format", "qcow2", "--json")
    done = run(*arguments, environment=tools)
    assert done.error["errno"] == "EINVAL"
    assert message in done.error["message"]


def test_what_qemu_img_says_of_a_failure_is_passed_on(
    image: Image, tmp_path: Path, tools: dict[str, str]
) -> None:
    (tmp_path / "bin" / "qemu-img").write_text("#!/bin/sh\necho too bad >&2\nexit 3\n")
    (tmp_path / "in").write_bytes(HEAD)
    arguments = ("import", image.path, tmp_path / "in", "--format", "qcow2", "--json")
    done = run(*arguments, environment=tools)
    assert done.error == {"errno": "EIO", "message": "qemu-img: too bad"}


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_the_real_qemu_img_understands_us(image: Image, tmp_path: Path) -> None:
    out = tmp_path / "out.qcow2"
    export = ("export", image.path, str(image.thick), out, "--format", "qcow2")
    assert run(*export).status == 0
    blob_id = run("import", image.path, out, "--format", "qcow2").text.strip()
    found = run("read", image.path, blob_id).stdout
    assert found == run("read", image.path, str(image.thick)).stdout
    assert len(found) == 4 * CLUSTER


def qcow2_image(path: Path, *, compressed: bool = False) -> bytes:
    """Write an image of a disk of one and a half clusters of 64 KiB; return what the disk holds."""
    size, data = 1 << 16, random.Random(1).randbytes(98304)
    head = struct.pack(">4sIQIIQIIQ", b"QFI\xfb", 3, 0, 0, 16, len(data), 0, 1, size)
    head += struct.pack(">QIIQQQQII", size, 1, 0, 0, 0, 0, 0, 4, 104)
    first = (1 << 62 | 3 * size) if compressed else 3 * size
    tables = [struct.pack(">Q", 2 * size), struct.pack(">QQ", first, 4 * size)]
    pages = [head, *tables]
    path.write_bytes(b"".join(page.ljust(size, b"\0") for page in pages) + data)
    return data


@pytest.mark.parametrize("length", [80, 104, 65536, 65543, 131072, 196607, 200000, 294911])
def test_a_qcow2_image_that_is_cut_short_is_an_error_and_leaves_no_blob(
    empty: Path, tmp_path: Path, tools: dict[str, str], length: int
) -> None:
    qcow2_image(tmp_path / "in")
    os.truncate(tmp_path / "in", length)
    arguments = ("import", empty, tmp_path / "in", "--format", "qcow2", "--json")
    done = run(*arguments, environment=tools)
    assert done.error["errno"] == "EINVAL"
    assert "cut short" in done.error["message"]
    assert run("list", empty, "--json").json == {"blobs": []}


def test_a_qcow2_image_that_is_whole_is_not_called_short(tmp_path: Path) -> None:
    for compressed in (False, True):
        qcow2_image(tmp_path / "in", compressed=compressed)
        with (tmp_path / "in").open("r+b") as file:
            check_whole(file.fileno(), path="in")
            file.truncate(3 << 16)  # where the first cluster begins
            with pytest.raises(InvalidArgumentError, match="cut short"):
                check_whole(file.fileno(), path="in")


def test_a_compressed_cluster_beyond_the_end_is_missed(tmp_path: Path) -> None:
    qcow2_image(tmp_path / "in", compressed=True)
    with (tmp_path / "in").open("r+b") as file:
        file.seek(2 << 16)
        file.write(struct.pack(">QQ", 1 << 62 | 1 << 54 | 3 << 16, 0))
        file.truncate((3 << 16) + 512)
        with pytest.raises(InvalidArgumentError, match="cut short"):
            check_whole(file.fileno(), path="in")


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        pytest.param(20, struct.pack(">I", 8), "with an invalid header", id="tiny clusters"),
        pytest.param(20, struct.pack(">I", 40), "with an invalid header", id="huge clusters"),
        pytest.param(36, struct.pack(">I", 1 << 30), "with an invalid header", id="a huge table"),
        pytest.param(24, struct.pack(">Q", 1 << 50), "too small for its disk", id="a huge disk"),
        pytest.param(40, struct.pack(">Q", 1 << 60), "cut short", id="a table far away"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, at: int, value: bytes, message: str) -> None:
    qcow2_image(tmp_path / "in")
    with (tmp_path / "in").open("r+b") as file:
        file.seek(at)
        file.write(value)
        file.flush()
        with pytest.raises(InvalidArgumentError, match=message):
            check_whole(file.fileno(), path="in")


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "extended_l2=on,cluster_size=128k"]])
def test_an_image_of_qemu_img_cut_anywhere_is_an_error_or_the_whole_disk(
    tmp_path: Path, options: list[str]
) -> None:
    raw, image, again = tmp_path / "raw", tmp_path / "image", tmp_path / "again"
    data = random.Random(2).randbytes(1 << 18) + bytes(1 << 18) + b"text" * 50000
    raw.write_bytes(data)
    convert = ["qemu-img", "convert"]
    subprocess.run([*convert, "-O", "qcow2", *options, raw, image], check=True)
    refused = 0
    for length in range(image.stat().st_size, 256, -24576):
        os.truncate(image, length)
        try:
            with image.open("rb") as file:
                check_whole(file.fileno(), path="image")
        except InvalidArgumentError:
            refused += 1
            continue
        subprocess.run([*convert, "-f", "qcow2", "-O", "raw", image, again], check=True)
        assert again.read_bytes()[: len(data)] == data
    assert refused > 5
