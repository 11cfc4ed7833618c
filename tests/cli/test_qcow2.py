"""qcow2 through qemu-img, which here is a script that knows one header and nothing else."""

import shutil
import struct
from pathlib import Path

import pytest

from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run

HEAD = struct.pack(">4sIQ", b"QFI\xfb", 3, 0).ljust(104, b"\0")
FAKE = """#!/bin/sh
[ "$1 $2 $4 $6" = "convert -f -O --" ] || { echo "unexpected: $*" >&2; exit 1; }
case "$3 $5" in
"raw qcow2") { printf 'QFI\\373\\0\\0\\0\\003'; head -c 96 /dev/zero; cat "$7"; } > "$8" ;;
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
