"""What an error says: which file, address or option it is about, and what to do next."""

import errno
import json
import shlex
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from blobstore import Blobstore, VolumeStore, check, repair
from blobstore.cli.files import open_to_write
from blobstore.cli.group import describe_os_error
from blobstore.errors import AccessError
from blobstore.operations import Buffer
from blobstore.units import MIB
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import COMMAND, run, run_here, unchanged
from tests.proof.image_device import ImageDevice


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    path = tmp_path / "vms.img"
    assert run("init", path, "--size", "32MiB", "--volumes", "vms").status == 0
    assert run("create", path, "disk", "--size", "4MiB").status == 0
    return path


def said(*arguments: str | Path) -> str:
    """Return the one line that a command ends with."""
    done = run(*arguments)
    assert (done.status, done.stdout) == (1, b"")
    (line,) = done.stderr.splitlines()
    return line


def test_a_file_that_is_too_short_for_a_store_is_called_none(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(b"root:x:0:0\n")
    assert said("list", path).startswith(
        f"{path}: no blobstore: 11 bytes, a super block takes 4096"
    )


def test_a_name_that_no_blob_has_is_said_with_the_store(image: Image) -> None:
    assert said("read", image.path, "wen") == f"{image.path}: no blob is named 'wen'"


def test_reid_of_a_store_of_blobs_says_nothing_of_new_uuids(image: Image) -> None:
    assert said("reid", image.path) == f"{image.path}: a store of blobs, expected a volume store"


def test_bench_without_room_names_its_option(image: Image) -> None:
    line = said("bench", image.path, "--size", "1GiB")
    assert line.endswith("free; the blob has 1 GiB: --size sets another size")


def test_a_cluster_size_above_the_device_is_said_in_the_units_that_were_typed(
    tmp_path: Path,
) -> None:
    line = said("init", tmp_path / "new.img", "--size", "64MiB", "--cluster-size", "128MiB")
    assert line.endswith("cluster size 128 MiB: the device has 64 MiB")
    line = said("init", tmp_path / "new.img", "--size", "64MiB", "--cluster-size", "100KB")
    assert line.endswith(
        "cluster size 100000 B: expected a multiple of the page size 4 KiB below 4 GiB"
    )
    line = said("init", tmp_path / "new.img", "--size", "64MiB", "--max-size", "32MiB")
    assert line.endswith("max_size 32 MiB: expected at least the size, 64 MiB")


def test_a_server_says_at_which_address_it_cannot_listen(volumes: Path, tmp_path: Path) -> None:
    long = "s" * 120
    assert said("serve", volumes, "--nbd", f"unix:{long}") == (
        f"{long}: a path of 120 bytes, a Unix socket's has at most 107"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = said("serve", volumes, "--nbd", address)
    assert line == f"{address}: Address already in use"


def test_a_server_does_not_listen_at_a_path_where_something_else_is(
    volumes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    Path("notes").write_text("mine")
    assert said("serve", volumes, "--nbd", "unix:notes") == "notes: exists, and is no socket"
    assert Path("notes").read_text() == "mine"


def test_what_is_no_stream_is_called_none_with_its_name(volumes: Path, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    stream.write_bytes(b"\0" * 300)
    assert said("receive", volumes, "--from", stream).startswith(
        f"{stream}: no stream of `send`: starts with b'\\x00"
    )
    assert run("snapshot", volumes, "disk", "monday").status == 0
    assert run("send", volumes, "monday", "--to", stream, "--yes").status == 0
    data = bytearray(stream.read_bytes())
    data[-1] ^= 1
    stream.write_bytes(data)
    assert said("receive", volumes, "new", "--from", stream).startswith(f"{stream}: stream: record")


def test_top_at_a_socket_without_statistics_names_the_right_ones(tmp_path: Path) -> None:
    line = said("top", tmp_path / "none.sock")
    assert line == f"{tmp_path}/none.sock: no server with statistics: No such file or directory"


def test_top_of_a_store_says_which_socket_it_takes(volumes: Path) -> None:
    done = run("top", volumes, "--json")
    assert (done.status, done.error["errno"]) == (1, "ENOTSOCK")
    assert done.error["message"] == (
        f"{volumes}: not a socket, expected the PATH of `serve --rpc PATH` or `rpc --socket PATH`"
    )


def test_a_snapshot_with_several_clones_that_is_not_deleted_names_the_first_three(
    volumes: Path,
) -> None:
    run_here("snapshot", volumes, "disk", "monday")
    names = ("disk", "one", "two", "three")
    for name in names[1:3]:
        run_here("clone", volumes, "monday", name)
    clones = [run_here("show", volumes, name, "--json").json["id"] for name in names[:3]]
    in_words = ", ".join(f"{clone:#x}" for clone in sorted(clones))
    assert said("delete", volumes, "monday", "--yes").endswith(f": has 3 clones: {in_words}")
    run_here("clone", volumes, "monday", "three")
    assert said("delete", volumes, "monday", "--yes").endswith(
        f": has 4 clones: {in_words} and 1 more"
    )


def test_a_new_store_without_room_for_data_is_warned_of(tmp_path: Path) -> None:
    done = run_here("init", tmp_path / "small.img", "--size", "1M")
    assert done.status == 0
    assert done.stderr.startswith("warning: the metadata takes all clusters, none is left for data")
    assert run_here("init", tmp_path / "large.img", "--size", "8M").stderr == ""


def test_prune_that_keeps_nothing_names_the_options_that_say_what_to_keep(volumes: Path) -> None:
    done = run("prune", volumes, "disk", "--keep-last", "0")
    assert done.status == 2
    assert "expected one of --keep-last N, --keep-hourly N, --keep-daily N, " in done.stderr
    assert done.stderr.endswith(", --keep-yearly N, with N of 1 or more\n")


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "out")
    with (
        pytest.raises(OSError, match="No space left") as caught,
        open_to_write(path, overwrite=False),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert describe_os_error(caught.value) == (f"{path}: No space left on device", errno.ENOSPC)


class Unwritable(ImageDevice):
    """A device that opens for writing, and refuses each write: a block device set read-only."""

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        raise AccessError(f"write at {offset}: Operation not permitted")


def test_a_repair_of_a_device_that_refuses_writes_says_that_and_leaves_no_undo_file(
    tmp_path: Path,
) -> None:
    image = bytearray(8 * MIB)
    with Blobstore.create(ImageDevice(image), cluster_size=CLUSTER) as store:
        store.create_blob(CLUSTER)
        image_offset = store.info.md_start * 4096 + 100
    image[image_offset] ^= 1
    with pytest.raises(AccessError) as caught:
        repair(Unwritable(image), "all", undo=tmp_path / "undo")
    assert "half done" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert not check(ImageDevice(image)).clean


def test_a_plan_that_mends_everything_says_that_no_problem_would_remain(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with Blobstore.create(path, size=8 * MIB, cluster_size=CLUSTER) as store:
        store.create_blob(CLUSTER)
        start = store.info.md_start * 4096
    with path.open("r+b") as file:
        file.seek(start + 100)
        file.write(b"broken")
    lines = run("check", path).text.splitlines()
    assert "--repair all would do this, and no problem would remain:" in lines


def test_a_repair_that_cannot_open_the_store_says_nothing_of_an_undo(tmp_path: Path) -> None:
    done = run("repair", tmp_path / "none.img")
    assert (done.status, done.stderr) == (8, f"{tmp_path}/none.img: no such file or directory\n")


def test_a_list_marks_the_super_blob_of_a_volume_store(volumes: Path) -> None:
    _head, own, disk = run("list", volumes).text.splitlines()
    assert ("the store itself" in own, "the store itself" in disk) == (True, False)
    assert "kind" not in run("list", volumes, "--json").json["blobs"][0]


def test_text_that_is_padded_with_zeroes_is_shown_as_text(volumes: Path) -> None:
    shown = dict(line.split() for line in run("xattr", "list", volumes, "disk").text.splitlines())
    assert shown["name"] == "disk"
    assert run("xattr", "set", volumes, "disk", "zeroes", "hex:0000").status == 0
    assert "hex:0000" in run("xattr", "list", volumes, "disk").text


def test_a_blob_whose_content_cannot_be_hashed_keeps_its_line(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * CLUSTER)
    assert run("init", path, "--size", "8MiB", "--cluster-size", "64KiB").status == 0
    extern = ("--external-snapshot", "far", "--external", f"far={outside}")
    assert run("create", path, "clone", "--size", "64KiB", *extern).status == 0
    lines = run("list", path, "--sha256").text.splitlines()
    assert "clone" in lines[1]
    assert "64 KiB" in lines[1]
    assert "sha256 not known: " in lines[2]
    (entry,) = run("list", path, "--sha256", "--json").json["blobs"]
    assert (entry["size"], entry["sha256"], entry["error"]["errno"]) == (CLUSTER, None, "ENOTSUP")


@pytest.mark.parametrize(
    "way",
    ["create", "snapshot", "clone", "rename", "import", "receive", "shell"],
)
@pytest.mark.parametrize("in_volumes", [False, True], ids=["blobs", "volumes"])
def test_a_name_that_another_blob_has_is_refused_before_anything_is_made(
    tmp_path: Path, way: str, in_volumes: bool
) -> None:
    store, file, stream = (str(tmp_path / name) for name in ("store", "file", "stream"))
    Path(file).write_bytes(b"data")
    run("init", store, "--size", "64M", *(["--volumes", "v"] if in_volumes else []))
    run("create", store, "this", "--size", "1M", "--thin")
    run("snapshot", store, "this", "this@1")
    other = run("create", store, "other", "--size", "1M", "--thin", "--json").json["id"]
    run("send", store, "this@1", "--to", stream)
    commands = {
        "create": ("create", store, "other", "--size", "1M"),
        "snapshot": ("snapshot", store, "this", "other"),
        "clone": ("clone", store, "this@1", "other"),
        "rename": ("rename", store, "this", "other"),
        "import": ("import", store, file, "--name", "other"),
        "receive": ("receive", store, "other", "--from", stream),
        "shell": ("shell", store, "--json"),
    }
    same = unchanged(Path(store))
    done = run(*commands[way], stdin=b"snapshot this other\n")
    what = "volume 'other': exists" if in_volumes else f"blob 'other': exists, id {other:#x}"
    assert done.status == 1
    assert what in done.stderr
    assert same()


def test_a_name_that_several_blobs_have_already_is_refused(image: Image) -> None:
    run("xattr", "set", image.path, "alpha", "name", "beta")
    done = run("create", image.path, "beta", "--size", "1M", "--json")
    assert done.error["errno"] == "EEXIST"
    assert "2 blobs are named 'beta'" in done.error["message"]


def test_a_name_given_as_an_attribute_of_a_new_blob_is_refused_too(image: Image) -> None:
    done = run("create", image.path, "--size", "1M", "--xattr", "name=beta", "--json")
    assert done.error["errno"] == "EEXIST"


def test_a_blob_is_renamed_to_the_name_that_it_has(image: Image) -> None:
    assert run("rename", image.path, "alpha", "alpha").status == 0


def test_the_attribute_name_of_another_blob_is_set_with_a_warning(image: Image) -> None:
    done = run("xattr", "set", image.path, "alpha", "name", "beta")
    assert done.status == 0
    assert done.stderr.startswith("warning: 2 blobs are named 'beta'")
    for blob in (image.thick, image.thin):
        assert run("show", image.path, f"{blob:#x}").status == 0
    assert run("rename", image.path, f"{image.thick:#x}", "alpha").status == 0
    assert run("xattr", "set", image.path, "alpha", "key", "beta").stderr == ""


def test_a_name_that_is_the_id_of_another_volume_is_warned_of(volumes: Path) -> None:
    disk = run("show", volumes, "disk", "--json").json["id"]
    done = run("create", volumes, f"{disk:#x}", "--size", "4MiB")
    assert done.status == 0
    assert done.stderr == (
        f"warning: a blob has the id {disk:#x}: as BLOB, {disk:#x} is that blob, "
        "not the blob of this name\n"
    )
    assert run("create", volumes, "0x7", "--size", "4MiB").stderr == ""


def test_a_command_that_is_not_there_is_answered_with_one_that_is_like_it() -> None:
    assert run("lst").stderr.endswith("Error: No such command 'lst'. Did you mean 'list'?\n")
    assert run("LIST").stderr.endswith("Error: No such command 'LIST'. Did you mean 'list'?\n")


def test_help_is_a_command_too(volumes: Path) -> None:
    assert run("help").text == run("--help").text
    assert run("help", "list").text == run("list", "--help").text
    assert run("help", "xattr", "set").text == run("xattr", "set", "--help").text
    assert run("help", "lst").stderr.endswith("No such command 'lst'. Did you mean 'list'?\n")


def test_a_read_of_more_than_the_blob_has_says_what_was_asked_for(volumes: Path) -> None:
    blob_id = run("show", volumes, "disk", "--json").json["id"]
    place = f"{volumes}: blob {blob_id:#x}"
    assert said("read", volumes, "disk", "--length", "8MiB") == (
        f"{place}: 8388608 bytes at 0: outside of 4194304 bytes"
    )
    assert said("read", volumes, "disk", "--offset", "8MiB") == (
        f"{place}: offset 8388608: outside of 4194304 bytes"
    )


def test_a_blob_that_does_not_fit_says_how_large_a_cluster_is_and_what_needs_fewer(
    volumes: Path,
) -> None:
    assert said("create", volumes, "large", "--size", "1GiB").endswith(
        " free; a cluster has 4 MiB; a --thin blob takes clusters when written"
    )
    assert run("create", volumes, "large", "--size", "1GiB", "--thin").status == 0


def test_an_import_into_a_blob_that_is_not_there_names_the_option_for_a_new_one(
    volumes: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    assert said("import", volumes, source, "new") == (
        f"{volumes}: no volume 'new'; --name NAME imports into a new blob"
    )


def test_an_import_from_standard_input_names_the_command_that_can() -> None:
    done = run("import", "disk.img", "-")
    assert done.status == 2
    assert done.stderr.endswith("FILE is a file with holes; `write` reads standard input\n")


def test_a_copy_within_a_store_names_the_option_for_other_names(volumes: Path) -> None:
    assert said("copy", volumes, volumes).endswith(
        "'disk': exists; --prefix gives the copies other names"
    )


def test_rpc_without_its_store_fails_as_other_commands_do(tmp_path: Path) -> None:
    line = said("rpc", "--socket", tmp_path / "rpc.sock", tmp_path / "none.img")
    assert line == f"{tmp_path}/none.img: no such file or directory"


def test_rpc_with_json_says_where_it_listens(tmp_path: Path) -> None:
    command = [*COMMAND, "rpc", "--quiet", "--json", "--socket", "rpc.sock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        shown = json.loads(process.stdout.readline())
        process.terminate()
    assert shown == {"schema_version": 1, "socket": "rpc.sock"}


def test_a_map_marks_the_super_blob_and_counts_one_cluster(volumes: Path) -> None:
    shown = run("map", volumes).text
    assert "metadata: 1 cluster\n" in shown
    (own,) = [line for line in shown.splitlines() if "vms  " in line]
    assert "the store itself" in own


def test_destroy_says_that_the_data_are_still_there(image: Image) -> None:
    done = run("destroy", image.path, "--yes")
    assert done.stderr == "the data are not wiped: `blobstore rescue` may still read them\n"


def test_a_command_without_a_standard_output_ends_as_usual(image: Image) -> None:
    command = f"{shlex.join(COMMAND)} list {shlex.quote(str(image.path))} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_who_has_a_store_is_named_with_its_command(image: Image, tmp_path: Path) -> None:
    command = [*COMMAND, "serve", str(image.path), "--nbd", "unix:n.sock", "--quiet", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        line = said("create", image.path, "--size", "1M")
        waited = said("list", image.path, "--wait", "0.01")
        process.terminate()
    in_use = f"in use by process {process.pid} (blobstore serve); `kill {process.pid}` ends it; "
    assert line.endswith(f"{in_use}--wait SECONDS waits until it has ended")
    assert waited.endswith(f"{in_use}waited 0.01 s")


@pytest.mark.parametrize(
    "command",
    [
        ("write", "{own}", "FILE"), ("zero", "{own}", "--length", "1"),
        ("unmap", "{own}", "--length", "1"), ("resize", "{own}", "1M"),
        ("rename", "{own}", "other"), ("set-read-only", "{own}"), ("inflate", "{own}"),
        ("decouple", "{own}"), ("snapshot", "{own}", "s"), ("clone", "{own}", "c"),
        ("rollback", "{own}", "disk", "--yes"), ("set-parent", "{own}", "disk", "--yes"),
        ("delete", "{own}", "--yes"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_no_command_changes_the_super_blob_of_a_volume_store(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = tmp_path / "disk.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size="64KiB") as store:
        store.create_volume("disk", "64KiB").close()
        own = f"{store.super_blob:#x}"
    (tmp_path / "FILE").write_bytes(b"")
    first, *rest = (part.format(own=own) for part in command)
    rest = [str(tmp_path / part) if part == "FILE" else part for part in rest]
    before = path.read_bytes()
    done = run(first, path, *rest)
    assert done.status == 1
    assert f"blob {own}: is the store itself, no volume" in done.stderr
    assert path.read_bytes() == before
