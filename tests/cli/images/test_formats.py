"""import of an image whose signature says that its bytes are not the disk's."""

import struct
from pathlib import Path

import pytest

from tests.cli.runner import run, run_here

HEADS = {
    "qcow2": b"QFI\xfb" + struct.pack(">I", 3),
    "vmdk": b"KDMV" + struct.pack("<I", 1),
    "vhdx": b"vhdxfile",
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


def test_a_vmdk_descriptor_is_named_too(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "disk.vmdk").write_bytes(b"# Disk DescriptorFile\nversion=1\n")
    assert "a vmdk image" in run("import", empty, tmp_path / "disk.vmdk").stderr


@pytest.mark.parametrize("size", [0, 1, 3, 68, 512])
def test_a_short_or_other_file_is_raw(empty: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"Q" * size)
    assert run_here("import", empty, tmp_path / "file").status == 0
