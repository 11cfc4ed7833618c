"""import of an image whose signature says that its bytes are not the disk's."""

import hashlib
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Image
from tests.cli.runner import run, run_here

needs_qemu_img = pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="qemu-img is not installed"
)
HEADS = {
    "qcow2": b"QFI\xfb" + struct.pack(">I", 3),
    "vmdk": b"KDMV" + struct.pack("<I", 1),
    "vhdx": b"vhdxfile",
    "vpc": b"conectix",
    "vdi": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
}


@pytest.mark.parametrize("name", HEADS)
def test_an_image_with_a_signature_is_not_imported_as_raw_unless_told(
    empty: Path, tmp_path: Path, name: str
) -> None:
    image = tmp_path / "image"
    image.write_bytes(HEADS[name].ljust(70_000, b"\1"))
    done = run_here("import", empty, image, "--json")
    assert (done.status, done.error["errno"]) == (1, "EINVAL")
    assert f"a {name} image" in done.error["message"]
    assert "--format raw" in done.error["message"]
    assert run_here("list", empty, "--json").json == {"blobs": []}
    assert run_here("import", empty, image, "--format", "raw").status == 0
    blob = run_here("list", empty, "--json").json["blobs"][0]
    read = run_here("read", empty, str(blob["id"]), "--length", "70000").stdout
    assert read == image.read_bytes()


def test_a_vhd_of_a_fixed_size_is_known_by_its_footer(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.vhd").write_bytes(bytes(70_000) + b"conectix".ljust(512, b"\0"))
    assert "a vpc image: --format vpc" in run("import", empty, tmp_path / "disk.vhd").stderr
    assert run("import", empty, tmp_path / "disk.vhd", "--format", "raw").status == 0


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("qcow", b"QFI\xfb\0\0\0\1"),
        ("qed", b"QED\0"),
        ("parallels", b"WithoutFreeSpace"),
        ("parallels", b"WithouFreSpacExt"),
    ],
)
def test_an_image_of_a_format_that_is_not_read_is_no_raw_disk_unless_told(
    empty: Path, tmp_path: Path, name: str, head: bytes
) -> None:
    image = tmp_path / "image"
    image.write_bytes(head.ljust(70_000, b"\1"))
    done = run("import", empty, image, "--json")
    assert done.error == {
        "errno": "EINVAL",
        "message": f"{image}: a {name} image: `qemu-img convert` writes the disk in it to a raw "
        "file, --format raw imports the file as it is",
    }
    assert run("import", empty, image, "--format", "raw").status == 0


@needs_qemu_img
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_vhd_has_the_size_that_it_says_whoever_made_it(
    empty: Path, tmp_path: Path, subformat: str
) -> None:
    """qemu-img alone would end the disk where the geometry of whole cylinders ends."""
    raw, image = tmp_path / "raw", tmp_path / "disk.vhd"
    raw.write_bytes(random.Random(1).randbytes(3 << 20))
    options = f"subformat={subformat},force_size=on"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, str(raw), str(image)]
    subprocess.run(convert, check=True)
    content = image.read_bytes()
    footer = bytearray(content[-512:].replace(b"qem2", b"vbox"))
    footer[64:68] = bytes(4)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFF_FFFF)
    image.write_bytes(content[:-512] + footer)
    if subformat == "dynamic":  # it has a copy at the start
        image.write_bytes(footer + content[512:-512] + footer)
    done = run("import", empty, image, "--format", "vpc", "--verify", "--json").json
    assert done["sha256"] == hashlib.sha256(raw.read_bytes()).hexdigest()


def test_a_vhd_that_is_cut_short_or_needs_another_is_refused(empty: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.vhd"
    differencing = b"conectix".ljust(60, b"\0") + struct.pack(">I", 4)
    for content, message in (
        (b"conectix".ljust(70_000, b"\0"), "cut short"),
        (b"conectix", "cut short"),
        (bytes(512) + differencing.ljust(512, b"\0"), "needs another file"),
    ):
        image.write_bytes(content)
        done = run("import", empty, image, "--format", "vpc", "--json")
        assert (done.status, done.error["errno"]) == (1, "EINVAL")
        assert message in done.error["message"]


@needs_qemu_img
@pytest.mark.parametrize("name", ["vmdk", "vdi", "vhdx", "vpc"])
def test_an_image_that_was_cut_short_is_refused_and_a_whole_one_is_not(
    empty: Path, tmp_path: Path, name: str
) -> None:
    """qemu-img converts such a VMDK or VDI without an error, and with zeroes instead of data."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    with raw.open("wb") as file:
        file.write(random.Random(1).randbytes(1 << 20))
        file.truncate((3 << 20) + 512)
        file.seek(3 << 20)
        file.write(b"e" * 512)  # the end of the disk, in a part of a grain
    options = ["-o", "force_size=on"] if name == "vpc" else []
    convert = ["qemu-img", "convert", "-f", "raw", "-O", name, *options, str(raw), str(image)]
    subprocess.run(convert, check=True)
    command = ("import", empty, image, "--format", name, "--thin", "--verify", "--json")
    done = run(*command)
    assert done.status == 0
    content = image.read_bytes()
    for size in (content.rindex(b"e" * 512), len(content) // 2):
        os.truncate(image, size)
        assert run(*command).status == 1
    assert len(run("list", empty, "--json").json["blobs"]) == 1


@needs_qemu_img
def test_a_vmdk_whose_directory_is_far_away_is_cut_short(empty: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    head = struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, 8192, 128, 0, 0, 512, 0, (1 << 64) - 2)
    image.write_bytes(head.ljust(70_000, b"\0"))
    done = run("import", empty, image, "--format", "vmdk", "--json")
    assert (done.error["errno"], "cut short" in done.error["message"]) == ("EINVAL", True)


def test_a_vmdk_descriptor_is_named_too(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.vmdk").write_bytes(b"# Disk DescriptorFile\nversion=1\n")
    assert "a vmdk image" in run("import", empty, tmp_path / "disk.vmdk").stderr


@pytest.mark.parametrize(
    ("extension", "name"), [("qcow2", "qcow2"), ("VMDK", "vmdk"), ("vhdx", "vhdx"), ("vhd", "vpc")]
)
def test_an_export_warns_if_the_name_of_the_file_promises_a_format(
    image: Image, tmp_path: Path, extension: str, name: str
) -> None:
    out = tmp_path / f"out.{extension}"
    export = ("export", image.path, "alpha", out)
    done = run(*export)
    warning = f"warning: {out}: a raw file; --format {name} writes a {name} image\n"
    assert (done.status, done.stderr) == (0, warning)
    assert run(*export, "--format", "raw", "--yes").stderr == ""
    assert run(*export, "--yes", "--json").json["id"] == image.thick
    assert run(*export[:3], tmp_path / "out.img").stderr == ""


@pytest.mark.parametrize("size", [0, 1, 3, 68, 512])
def test_a_short_or_other_file_is_raw(empty: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"Q" * size)
    assert run_here("import", empty, tmp_path / "file").status == 0
