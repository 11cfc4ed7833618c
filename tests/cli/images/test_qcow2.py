"""Images of other programs: qemu-img reads what we write, and we read what it writes."""

import os
import random
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from blobstore import Blobstore, InvalidArgumentError
from blobstore.cli.images.qcow2_tables import check_whole
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run
from tests.cli.schema import VERIFIED_EXPORT, VERIFIED_IMPORT, conforms

HEAD = struct.pack(">4sIQII", b"QFI\xfb", 3, 0, 0, 16).ljust(104, b"\0")
needs_qemu_img = pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="qemu-img is not installed"
)


def test_without_qemu_img_the_error_says_so(image: Image, tmp_path: Path) -> None:
    qcow2_image(tmp_path / "in")
    for arguments in (
        ("import", image.path, tmp_path / "in", "--format", "qcow2"),
        ("export", image.path, str(image.thin), tmp_path / "out", "--format", "vmdk"),
    ):
        done = run(*arguments, "--json", environment={"PATH": str(tmp_path)})
        assert (done.status, done.error["errno"]) == (1, "ENOTSUP")
        assert "qemu-img" in done.error["message"]


def test_writing_qcow2_needs_no_qemu_img_and_overwrites_only_if_told(
    image: Image, tmp_path: Path
) -> None:
    out = tmp_path / "out.qcow2"
    export = ("export", image.path, str(image.thick), out, "--format", "qcow2")
    nowhere = {"PATH": str(tmp_path)}
    assert run(*export, environment=nowhere).status == 0
    assert out.read_bytes().startswith(b"QFI\xfb")
    assert run(*export, "--json", environment=nowhere).error["errno"] == "EEXIST"
    assert run(*export, "--yes", environment=nowhere).status == 0


def test_a_qcow2_image_is_not_exported_through_a_symlink(image: Image, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    export = ("export", image.path, str(image.thick), tmp_path / "link", "--format", "qcow2")
    done = run(*export, "--yes", "--json")
    assert done.error["errno"] == "ELOOP"
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vhdx", "vdi", "vpc"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_an_image_is_not_written_over_a_block_device(
    image: Image, tmp_path: Path, image_format: str
) -> None:
    device = block_device(tmp_path)
    export = ("export", image.path, str(image.thick), device, "--yes", "--json")
    for options in (("--format", image_format), ("--chain",), ("--tree",)):
        done = run(*export, *options)
        assert (done.status, done.error["errno"]) == (1, "EINVAL")
        assert done.error["message"].endswith("a block device, expected a file or --format raw")
    assert device.is_block_device()


def block_device(directory: Path) -> Path:
    """Make the node of a device that is not there."""
    path = directory / "device"
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 9999))
    except PermissionError as error:
        pytest.skip(f"no device nodes: {error}")
    return path


@needs_qemu_img
@pytest.mark.parametrize("image_format", ["vmdk", "vhdx", "vdi", "vpc"])
def test_an_image_of_qemu_img_is_durable_before_it_gets_its_name(
    image: Image, tmp_path: Path, image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    written: set[int] = set()  # files that were made durable while there was no `out`
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        if not out.exists():
            written.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    export = ("export", image.path, str(image.thick), out, "--format", image_format)
    assert run(*export).status == 0
    assert out.stat().st_ino in written


@needs_qemu_img
@pytest.mark.parametrize(
    ("head", "message"),
    [
        pytest.param(b"raw data", "not a qcow2 image", id="no image"),
        pytest.param(
            struct.pack(">4sIQI", b"QFI\xfb", 3, 104, 4).ljust(104, b"\0")[:20]
            + HEAD[20:]
            + b"base",
            "needs another file, base: --chain",
            id="backing",
        ),
        pytest.param(HEAD[:72] + struct.pack(">Q", 4) + HEAD[80:], "another file", id="data file"),
    ],
)
def test_what_an_image_names_is_never_opened(
    image: Image, tmp_path: Path, head: bytes, message: str
) -> None:
    (tmp_path / "in").write_bytes(head)
    done = run("import", image.path, tmp_path / "in", "--format", "qcow2", "--json")
    assert done.error["errno"] == "EINVAL"
    assert message in done.error["message"]


@needs_qemu_img
@pytest.mark.parametrize("options", [(), ("--format", "qcow2"), ("--format", "vmdk")])
def test_an_export_into_a_directory_that_is_not_there_names_the_file(
    image: Image, tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "nowhere" / "out"
    done = run("export", image.path, "alpha", out, *options)
    assert (done.status, done.stderr) == (1, f"{out}: No such file or directory\n")


@needs_qemu_img
def test_an_encrypted_image_is_refused_in_one_line(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "secret.qcow2"
    words = ["create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=abc"]
    words += [
        "-o",
        "encrypt.format=aes,encrypt.key-secret=key",
    ]  # luks measures the CPU, and may fail
    subprocess.run(["qemu-img", *words, path, "1M"], check=True)
    done = run("import", image.path, path, "--format", "qcow2", "--json")
    assert done.error["errno"] == "EINVAL"
    assert done.error["message"].startswith(f"{path}: encrypted, expected no encryption")


def test_what_qemu_img_says_of_a_failure_is_passed_on(image: Image, tmp_path: Path) -> None:
    script = tmp_path / "qemu-img"
    said = "qemu-img: Could not open 'json:{a {b} c}': too bad"
    script.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 3\n')
    script.chmod(0o755)
    qcow2_image(tmp_path / "in")
    arguments = ("import", image.path, tmp_path / "in", "--format", "qcow2", "--json")
    done = run(*arguments, environment={"PATH": f"{tmp_path}:/bin"})
    message = f"qemu-img: Could not open '{tmp_path / 'in'}': too bad"
    assert done.error == {"errno": "EIO", "message": message}


@needs_qemu_img
@pytest.mark.parametrize("name", ["qcow2", "vmdk", "vhdx", "vdi", "vpc"])
def test_a_blob_goes_out_in_every_format_and_in_again(
    image: Image, tmp_path: Path, name: str
) -> None:
    out = tmp_path / f"out.{name}"
    export = ("export", image.path, str(image.thin), out, "--format", name, "--verify", "--json")
    exported = run(*export).json
    imported = ("import", image.path, out, "--format", name, "--thin", "--verify", "--json")
    found = run(*imported).json
    assert conforms(found, VERIFIED_IMPORT)
    assert conforms(exported, VERIFIED_EXPORT)
    assert found["sha256"] == exported["sha256"]
    shown = run("show", image.path, str(found["id"]), "--json").json
    assert (shown["clusters"], shown["allocated_clusters"]) == (16, 1)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".blobstore-")]


@needs_qemu_img
@pytest.mark.parametrize("cluster_size", [4096, 65536, 1 << 20])
def test_what_we_write_is_what_qemu_img_reads(tmp_path: Path, cluster_size: int) -> None:
    """Of each size of clusters, with holes, zeroes, and more than one table of the second level."""
    path, out, raw = tmp_path / "disk.img", tmp_path / "out.qcow2", tmp_path / "raw"
    with Blobstore.create(path, size="16MiB", cluster_size=cluster_size, md_pages=64) as store:
        blob = store.create_blob("600MiB", thin=True, name="vol")
        for number, offset in enumerate((0, 5000, 70_000, 1 << 20, 530 << 20, (600 << 20) - 700)):
            blob.write(random.Random(number).randbytes(700), offset)
        blob.write_zeroes(3 << 20, 1 << 20)
    assert run("export", path, "vol", out, "--format", "qcow2").status == 0
    assert run("export", path, "vol", raw).status == 0
    subprocess.run(["qemu-img", "check", "-q", out], check=True)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", out, raw], check=True)
    assert out.stat().st_size < 2 << 20


@needs_qemu_img
def test_a_part_of_a_blob_becomes_an_image_of_that_size(image: Image, tmp_path: Path) -> None:
    for length in (100_000, 512, 0):
        out = tmp_path / f"{length}.qcow2"
        export = ("export", image.path, "alpha", out, "--format", "qcow2", "--length", str(length))
        assert run(*export).status == 0
        done = run("import", image.path, out, "--format", "qcow2", "--json").json
        shown = run("show", image.path, str(done["id"]), "--json").json
        assert shown["clusters"] == -(-length // CLUSTER)


@needs_qemu_img
def test_a_vmdk_that_names_other_files_is_refused(image: Image, tmp_path: Path) -> None:
    raw, flat, child = tmp_path / "raw", tmp_path / "flat.vmdk", tmp_path / "child.vmdk"
    raw.write_bytes(b"x" * CLUSTER)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk"]
    subprocess.run([*command, "-o", "subformat=monolithicFlat", str(raw), str(flat)], check=True)
    subprocess.run([*command, str(raw), tmp_path / "base.vmdk"], check=True)
    create = ["qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk"]
    subprocess.run([*create, str(child)], check=True, cwd=tmp_path)
    for path, message in ((flat, "its data are in another file"), (child, "needs another file")):
        done = run("import", image.path, path, "--format", "vmdk", "--json")
        assert done.error["errno"] == "EINVAL"
        assert message in done.error["message"]
    assert len(run("list", image.path, "--json").json["blobs"]) == 2


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


@needs_qemu_img
@pytest.mark.parametrize("length", [80, 104, 65536, 65543, 131072, 196607, 200000, 294911])
def test_a_qcow2_image_that_is_cut_short_is_an_error_and_leaves_no_blob(
    empty: Path, tmp_path: Path, length: int
) -> None:
    qcow2_image(tmp_path / "in")
    os.truncate(tmp_path / "in", length)
    done = run("import", empty, tmp_path / "in", "--format", "qcow2", "--json")
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


@needs_qemu_img
def test_a_file_may_end_in_a_cluster_whose_rest_was_never_written(tmp_path: Path) -> None:
    """With extended entries a cluster of 128 KiB has 32 parts."""
    image = tmp_path / "image"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k"]
    subprocess.run([*create, str(image), "1M"], check=True)
    write = ["qemu-io", "-c", "write -P 1 300k 4k", str(image)]
    subprocess.run(write, check=True, capture_output=True)
    with image.open("r+b") as file:
        length = image.stat().st_size
        assert length % (128 << 10)
        check_whole(file.fileno(), path="image")
        file.truncate(length - 4096)
        with pytest.raises(InvalidArgumentError, match="cut short"):
            check_whole(file.fileno(), path="image")


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


@needs_qemu_img
@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "extended_l2=on,cluster_size=128k"]])
def test_an_image_of_qemu_img_cut_anywhere_is_an_error_or_the_whole_disk(
    tmp_path: Path, options: list[str]
) -> None:
    raw, image, again = tmp_path / "raw", tmp_path / "image", tmp_path / "again"
    data = random.Random(2).randbytes(1 << 18) + bytes(1 << 18) + b"text" * 50000
    raw.write_bytes(data)
    convert = ["qemu-img", "convert"]
    subprocess.run([*convert, "-O", "qcow2", *options, str(raw), str(image)], check=True)
    refused = 0
    for length in range(image.stat().st_size, 256, -24576):
        os.truncate(image, length)
        try:
            with image.open("rb") as file:
                check_whole(file.fileno(), path="image")
        except InvalidArgumentError:
            refused += 1
            continue
        subprocess.run([*convert, "-f", "qcow2", "-O", "raw", str(image), again], check=True)
        assert again.read_bytes()[: len(data)] == data
    assert refused > 5
