"""rescue, export and read of broken stores: all that is left, and zeroes only when told."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from blobstore import Blobstore, DeviceError, MemoryDevice, Rescue
from blobstore.cli.options import StoreOptions
from blobstore.cli.rescuing import Content, UnreadableError
from blobstore.format.geometry import Geometry
from blobstore.format.super_block import SuperBlock
from blobstore.units import KIB, MIB
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import Result, run, run_here, unchanged

RANGE = {"offset", "length", "reason"}


@dataclass(frozen=True)
class Broken:
    """A store of which only the first cluster of a blob is left, and what the blob held."""

    path: Path
    blob: str
    content: bytes
    lost_from: int


def pattern(length: int) -> bytes:
    return b"".join(b"%7d\n" % number for number in range(length // 8))


def break_page(path: Path, page: int) -> None:
    """Make the checksum of a metadata page wrong."""
    data = bytearray(path.read_bytes())
    geometry = Geometry.of(SuperBlock.decode(bytes(data[:4096])), device_size=len(data))
    data[(geometry.md_start + page + 1) * 4096 - 1] ^= 1
    path.write_bytes(data)


@pytest.fixture
def cut(tmp_path: Path) -> Broken:
    """A device that ends within the blob's second cluster."""
    path = tmp_path / "cut.img"
    content = pattern(3 * CLUSTER)
    with (
        Blobstore.create(path, size="8MiB", cluster_size=CLUSTER) as store,
        store.create_blob(4 * CLUSTER, xattrs={"name": b"vol"}) as blob,
    ):
        blob.write(content)
        first = blob.info.extents[0][0]
    lost_from = CLUSTER + 5000
    with path.open("r+b") as file:
        file.truncate(first * CLUSTER + lost_from)
    return Broken(path, str(blob.id), content + bytes(CLUSTER), lost_from)


def export(store: Path, blob: str | int, target: Path, *options: str) -> Result:
    return run_here("export", store, str(blob), target, *options)


# export


def test_a_blob_of_a_truncated_image_is_exported_with_zeroes_when_told(
    cut: Broken, tmp_path: Path
) -> None:
    same = unchanged(cut.path)
    done = run("export", cut.path, cut.blob, tmp_path / "out", "--zero-fill")
    lost = len(cut.content) - cut.lost_from
    assert (done.status, done.stdout) == (0, b"")
    warning, missing = done.stderr.splitlines()
    assert warning.startswith(f"{cut.path}: ")
    assert warning.endswith(f"; blob {int(cut.blob):#x} is read by rescue")
    assert missing.startswith(f"unreadable: {lost} bytes at {cut.lost_from}: beyond the device's")
    out = tmp_path / "out"
    assert out.read_bytes() == cut.content[: cut.lost_from] + bytes(lost)
    assert out.stat().st_blocks * 512 < len(cut.content) - CLUSTER
    assert same()


def test_without_being_told_nothing_is_left_that_looks_complete(
    cut: Broken, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = export(cut.path, cut.blob, out)
    assert (done.status, done.stdout) == (1, b"")
    assert "unreadable: " in done.stderr
    assert "--zero-fill" in done.stderr.splitlines()[-1]
    assert not out.exists()
    out.write_bytes(b"kept")
    assert export(cut.path, cut.blob, out, "--yes").status == 1
    assert out.read_bytes() == b"kept"


def test_the_part_that_is_there_needs_no_zeroes(cut: Broken, tmp_path: Path) -> None:
    done = export(cut.path, cut.blob, tmp_path / "out", "--length", str(cut.lost_from))
    assert done.status == 0
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "out").read_bytes() == cut.content[: cut.lost_from]
    too_long = export(cut.path, cut.blob, tmp_path / "out2", "--length", "1MiB", "--zero-fill")
    assert "262144 bytes, 1048576 asked for" in too_long.stderr


def test_json_lists_what_is_unreadable(cut: Broken, tmp_path: Path) -> None:
    failed = export(cut.path, cut.blob, tmp_path / "out", "--json")
    assert (failed.status, failed.stdout) == (1, b"")
    answer = json.loads(failed.stderr)
    assert answer["schema_version"] == 1
    assert answer["error"]["errno"] == "EILSEQ"
    (missing,) = answer["unreadable"]
    assert set(missing) == RANGE
    assert missing["offset"] == cut.lost_from
    done = export(cut.path, cut.blob, tmp_path / "out", "--json", "--zero-fill").json
    assert sorted(done) == ["id", "length", "unreadable", "warning"]
    assert done["unreadable"] == [missing]
    assert "is read by rescue" in done["warning"]


def test_a_store_without_a_super_block_is_exported_whole(image: Image, tmp_path: Path) -> None:
    expected = run_here("read", image.path, str(image.thin)).stdout
    with image.path.open("r+b") as file:
        file.write(bytes(4096))
    done = export(image.path, image.thin, tmp_path / "out")
    assert done.status == 0
    assert "no blobstore, or its super block is lost" in done.stderr
    assert (tmp_path / "out").read_bytes() == expected


def test_a_read_only_image_in_a_read_only_directory_is_exported(
    cut: Broken, tmp_path: Path
) -> None:
    directory = tmp_path / "locked"
    directory.mkdir()
    path = Path(shutil.move(cut.path, directory))
    path.chmod(0o444)
    directory.chmod(0o555)
    before = path.stat()
    assert export(path, cut.blob, tmp_path / "out", "--zero-fill").status == 0
    assert run_here("rescue", path).status == 0
    directory.chmod(0o755)
    assert (path.stat().st_mtime_ns, path.stat().st_ctime_ns) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert list(directory.iterdir()) == [path]


def test_a_lost_root_is_exported_and_other_blobs_without_a_warning(
    image: Image, tmp_path: Path
) -> None:
    expected = run_here("read", image.path, str(image.thick)).stdout
    break_page(image.path, image.thick - (1 << 32))
    done = export(image.path, image.thick, tmp_path / "out")
    assert done.status == 0
    assert "crc" in done.stderr
    assert (tmp_path / "out").read_bytes() == expected
    sound = export(image.path, image.thin, tmp_path / "sound")
    assert (sound.status, sound.stderr) == (0, "")


def test_a_clone_whose_parent_is_gone_keeps_its_own(image: Image, tmp_path: Path) -> None:
    snapshot = run_here("snapshot", image.path, str(image.thick), "--json").json["id"]
    run_here("write", image.path, str(image.thick), "--offset", "64KiB", stdin=b"own" * 100)
    data = bytearray(image.path.read_bytes())
    geometry = Geometry.of(SuperBlock.decode(bytes(data[:4096])), device_size=len(data))
    for page in (snapshot - (1 << 32), 1):  # its root, and the extent page that it took over
        at = (geometry.md_start + page) * 4096
        data[at : at + 4096] = bytes(4096)
    image.path.write_bytes(data)
    refused = export(image.path, image.thick, tmp_path / "out")
    assert refused.status == 1
    assert refused.stderr.count("unreadable: ") == 2
    done = export(image.path, image.thick, tmp_path / "out", "--zero-fill")
    assert done.status == 0
    out = (tmp_path / "out").read_bytes()
    assert out[CLUSTER : CLUSTER + 300] == b"own" * 100
    assert not any(out[:CLUSTER])


def test_what_is_not_there_is_not_found_as_ever(image: Image, tmp_path: Path) -> None:
    missing = export(image.path, 0x1_0000_0077, tmp_path / "out", "--json")
    assert missing.error["errno"] == "ENOENT"
    nothing = export(tmp_path / "nothing.img", image.thin, tmp_path / "out", "--json")
    assert nothing.error["errno"] == "ENOENT"
    with image.path.open("r+b") as file:
        file.write(bytes(4096))
    missing = export(image.path, 0x1_0000_0077, tmp_path / "out", "--json")
    assert missing.error["errno"] == "ENOENT"
    empty = tmp_path / "zeroes.img"
    empty.write_bytes(bytes(MIB))
    assert "rebuilt" in export(empty, image.thin, tmp_path / "out").stderr


def test_an_external_snapshot_that_is_not_there_becomes_zeroes_when_told(
    empty: Path, tmp_path: Path
) -> None:
    made = run_here("create", empty, "--size", "128K", "--external-snapshot", "id", "--json").json
    blob = made["id"]
    refused = export(empty, blob, tmp_path / "out", "--json")
    assert refused.error["errno"] == "ENOTSUP"
    done = export(empty, blob, tmp_path / "out", "--zero-fill")
    assert (done.status, done.stderr.count("external snapshot b'id'")) == (0, 2)
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * CLUSTER)
    with empty.open("r+b") as file:
        file.write(bytes(4096))
    named = export(empty, blob, tmp_path / "out", "--yes", "--external", f"id={outside}")
    assert named.status == 0
    assert (tmp_path / "out").read_bytes() == b"x" * CLUSTER + bytes(CLUSTER)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_a_broken_blob_becomes_a_qcow2_image_too(cut: Broken, tmp_path: Path) -> None:
    out, raw = tmp_path / "out.qcow2", tmp_path / "raw"
    assert export(cut.path, cut.blob, out, "--format", "qcow2").status == 1
    assert not out.exists()
    assert export(cut.path, cut.blob, out, "--format", "qcow2", "--zero-fill").status == 0
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(out), str(raw)]
    subprocess.run(convert, check=True)
    assert raw.read_bytes() == cut.content[: cut.lost_from].ljust(len(cut.content), b"\0")


# read


def test_read_writes_nothing_of_a_range_that_is_not_whole(cut: Broken) -> None:
    done = run("read", cut.path, cut.blob)
    assert (done.status, done.stdout) == (1, b"")
    assert f"at {cut.lost_from}" in done.stderr
    part = run_here("read", cut.path, cut.blob, "--offset", "64KiB", "--length", "5000")
    assert (part.status, part.stdout) == (0, cut.content[CLUSTER : CLUSTER + 5000])
    beyond = run_here("read", cut.path, cut.blob, "--offset", "64KiB", "--length", "5001")
    assert (beyond.status, beyond.stdout) == (1, b"")


def test_read_fills_with_zeroes_when_told(cut: Broken) -> None:
    done = run_here("read", cut.path, cut.blob, "--zero-fill")
    assert done.status == 0
    assert done.stdout == cut.content[: cut.lost_from].ljust(len(cut.content), b"\0")
    assert done.stderr.count("unreadable: ") == 1
    answer = run_here("read", cut.path, cut.blob, "--zero-fill", "--json").json
    assert bytes.fromhex(answer["data"]) == done.stdout
    assert [set(missing) for missing in answer["unreadable"]] == [RANGE]


# What fails only when it is read


class FaultyDevice(MemoryDevice):
    """A device on which one block goes bad once it is told so."""

    bad = -1

    def read(self, offset: int, length: int) -> bytes:
        if offset < self.bad + 4096 and self.bad < offset + length and self.bad >= 0:
            raise DeviceError("faulty: bad block")
        return super().read(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for view in buffers:
            view[:] = self.read(offset, len(view))
            offset += len(view)


SIZE = 3 * MIB
BAD_AT = MIB + CLUSTER


@pytest.fixture
def faulty() -> Iterator[tuple[StoreOptions, int]]:
    """A store that is open, as a shell has it, with a block that goes bad under a blob."""
    device = FaultyDevice(8 * MIB)
    with Blobstore.create(device, cluster_size=CLUSTER) as store:
        with store.create_blob(SIZE) as blob:
            blob.write(pattern(SIZE))
            blob.flush()
            first = blob.info.extents[0][0]
        device.bad = first * CLUSTER + BAD_AT
        yield StoreOptions("faulty", False, None, False, (), True, kept_open=store), blob.id
        device.bad = -1


@pytest.mark.parametrize("sparse", [True, False])
def test_a_block_that_turns_out_bad_is_the_only_one_missing(
    faulty: tuple[StoreOptions, int], sparse: bool
) -> None:
    options, blob_id = faulty
    data = bytearray(SIZE)
    with Content(options, hex(blob_id), zero_fill=True) as content:
        content.check(0, None)
        for at, part in content.parts(0, SIZE, sparse=sparse):
            data[at : at + len(part)] = part
        (missing,) = content.unreadable
        assert (missing.offset, missing.length) == (BAD_AT, 4096)
        assert "bad block" in (content.warning or "")
    expected = bytearray(pattern(SIZE))
    expected[BAD_AT : BAD_AT + 4096] = bytes(4096)
    assert data == expected


def test_a_block_that_turns_out_bad_ends_it_without_zeroes(
    faulty: tuple[StoreOptions, int],
) -> None:
    options, blob_id = faulty
    with Content(options, hex(blob_id), zero_fill=False) as content:
        parts = content.parts(0, SIZE, sparse=False)
        assert next(parts)[1] == pattern(SIZE)[:MIB]
        with pytest.raises(UnreadableError, match="4096 bytes cannot be read"):
            list(parts)


# rescue


def test_rescue_lists_what_is_left_and_what_to_do(cut: Broken) -> None:
    same = unchanged(cut.path)
    done = run("rescue", cut.path)
    assert (done.status, done.stderr) == (0, "")
    lines = done.text.splitlines()
    assert lines[0].split() == ["ID", "NAME", "SIZE", "READABLE"]
    assert lines[1].split() == ["0x100000000", "vol", "256", "KiB", "68.9", "KiB"]
    assert f"0x100000000  unreadable: {len(cut.content) - cut.lost_from} bytes at" in done.text
    assert "error 5: " in done.text
    assert lines[-1].endswith(f"blobstore export {cut.path} BLOB FILE --zero-fill")
    assert same()


def test_names_of_volumes_are_listed_without_their_padding(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    run("init", path, "--volumes", "lab", "--size", "8MiB", "--cluster-size", "64KiB")
    run("create", path, "web", "--size", "64KiB", "--thin")
    with open(path, "r+b") as file:
        file.write(bytes(4096))  # the super block
    listed = [line.split()[1] for line in run("rescue", path).text.splitlines()[1:3]]
    assert listed == ["lab", "web"]


def test_rescue_as_json(cut: Broken) -> None:
    found = run_here("rescue", cut.path, "--json").json
    assert sorted(found) == ["assumptions", "blobs", "findings"]
    (blob,) = found["blobs"]
    assert sorted(blob) == ["findings", "id", "parent", "readable", "size", "unreadable", "xattrs"]
    assert (blob["readable"], blob["xattrs"]) == (cut.lost_from, {"name": b"vol".hex()})
    assert [finding["invariant"] for finding in found["findings"]] == [5]


def test_rescue_of_what_holds_nothing_fails(empty: Path, tmp_path: Path) -> None:
    done = run_here("rescue", empty)
    assert (done.status, done.text) == (1, f"{empty}: no blob is left\n")
    zeroes = tmp_path / "zeroes.img"
    zeroes.write_bytes(bytes(MIB))
    assert run_here("rescue", zeroes, "--json").error["errno"] == "EILSEQ"


def test_a_blob_of_which_nothing_is_left_is_listed_and_never_exported(
    image: Image, tmp_path: Path
) -> None:
    data = bytearray(image.path.read_bytes())
    geometry = Geometry.of(SuperBlock.decode(bytes(data[:4096])), device_size=len(data))
    for page in (image.thick - (1 << 32), 1):
        at = (geometry.md_start + page) * 4096
        data[at : at + 4096] = b"garbage!" * 512
    image.path.write_bytes(data)
    listed = run_here("rescue", image.path)
    assert listed.status == 0
    assert f"{image.thick:#x}  unreadable: from 0 on: " in listed.text
    for options in ([], ["--zero-fill"]):
        assert export(image.path, image.thick, tmp_path / "out", *options).status == 1
        assert not (tmp_path / "out").exists()


def test_a_rescue_waits_for_no_writer(image: Image) -> None:
    with Blobstore.open(image.path):
        assert run_here("rescue", image.path, "--json").error["errno"] == "EBUSY"
    with Rescue.open(image.path):
        assert run_here("rescue", image.path).status == 0


def test_a_shell_rescues_the_store_that_it_has_open(image: Image) -> None:
    done = run("shell", image.path, "--read-only", stdin=b"rescue\n")
    assert (done.status, done.stderr) == (0, "")
    assert "alpha" in done.text


def test_of_many_unreadable_places_the_first_are_shown_and_json_has_all(tmp_path: Path) -> None:
    path = tmp_path / "cut.img"
    with Blobstore.create(path, size=8 * MIB, cluster_size=16 * KIB, md_pages=64) as store:
        blobs = [store.create_blob(2 * MIB, thin=True) for _ in range(2)]
        for start in (0, 16 * KIB):  # what is written first is before the cut
            for at in range(start, 2 * MIB, 32 * KIB):
                for blob in blobs:
                    blob.write(b"x" * 16 * KIB, at)
    os.truncate(path, 5 * MIB // 2)
    found = run_here("rescue", path, "--json").json
    assert all(len(blob["unreadable"]) > 8 for blob in found["blobs"])
    shown = run_here("rescue", path).stdout.decode()
    assert shown.count("more like these, see --json") >= 2
    assert len(shown.splitlines()) < 50


# A lost super block


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A store without super block and masks, and without a sign of its cluster size."""
    made, path = tmp_path / "made.img", tmp_path / "unknown.img"
    with (
        Blobstore.create(made, size="8MiB", cluster_size=CLUSTER, md_pages=24) as store,
        store.create_blob(3 * CLUSTER, name="vol", thin=True) as blob,
    ):
        blob.set_xattr("note", b"nothing was written")
        blob.sync_md()
        shutil.copy(made, path)
    with path.open("r+b") as file:
        file.write(bytes(4096))
    return path


def test_rescue_asks_for_what_it_cannot_know_and_lists_the_blobs_when_it_is_told(
    unknown: Path,
) -> None:
    same = unchanged(unknown)
    asked = run_here("rescue", unknown)
    assert asked.status == 1
    assert "the cluster size is not known" in asked.stderr
    assert "(--cluster-size) says it" in asked.stderr
    told = run_here("rescue", unknown, "--cluster-size", str(CLUSTER), "--json")
    assert [(blob["size"], blob["readable"]) for blob in told.json["blobs"]] == [
        (3 * CLUSTER, 3 * CLUSTER)
    ]
    assert told.json["assumptions"][2].endswith("as given")
    lines = run_here("rescue", unknown, "--cluster-size", str(CLUSTER)).text.splitlines()
    assert lines[-1].endswith(f"export {unknown} --cluster-size {CLUSTER} BLOB FILE")
    assert same()


@pytest.mark.parametrize("options", [["--cluster-size", "64KiB"], ["--md-start", "4"]])
def test_export_and_read_take_what_a_lost_super_block_said(
    image: Image, tmp_path: Path, options: list[str]
) -> None:
    path, same = image.path, image.path.read_bytes()
    expected = run_here("read", path, str(image.thick)).stdout
    other = tmp_path / "other.img"
    Blobstore.create(other, size="8MiB", cluster_size="16KiB", md_pages=128).close()
    with path.open("r+b") as file:
        file.write(other.read_bytes()[:4096])
    assert run_here("read", path, str(image.thick), *options).stdout == expected
    done = export(path, image.thick, tmp_path / "out", *options)
    assert (done.status, (tmp_path / "out").read_bytes()) == (0, expected)
    assert done.stderr.startswith(f"{path}: its layout is given; blob {image.thick:#x} is read by")
    assert path.read_bytes()[4096:] == same[4096:]


def test_a_repair_that_puts_no_super_block_together_says_how_to_read_the_blobs(
    unknown: Path, image: Image
) -> None:
    left = run_here("check", unknown, "--repair", "all")
    assert left.status == 4
    assert "(--cluster-size) says it" in left.text.splitlines()[-1]
    with image.path.open("r+b") as file:
        file.write(b"garbage\n" * 512)
    left = run_here("check", image.path, "--repair", "all")
    assert left.status == 4
    assert left.text.splitlines()[-1] == (
        f"before a repair, copy out what can be read: blobstore rescue {image.path}"
    )
