"""diff, du, send, receive, copy, prune."""

import time
from pathlib import Path
from uuid import UUID

import pytest

from blobstore import VolumeStore
from tests.cli.conftest import CLUSTER, Image
from tests.cli.runner import run, run_here, unchanged
from tests.cli.schema import COPIED, DIFF, ID, PRUNED, SENT, UNFINISHED, USAGE, conforms


def test_diff_lists_the_parts_in_which_two_blobs_differ(image: Image) -> None:
    run_here("snapshot", image.path, "beta", "monday")
    run_here("write", image.path, "beta", "--offset", str(5 * CLUSTER), stdin=b"tuesday")
    run_here("write", image.path, "beta", "--offset", str(6 * CLUSTER), stdin=b"tuesday")
    same = unchanged(image.path)
    done = run("diff", image.path, "monday", "beta", "--json")
    assert conforms(done.json, DIFF)
    assert done.json == {"ranges": [[5 * CLUSTER, 2 * CLUSTER]]}
    shown = run_here("diff", image.path, "beta", "monday")
    assert shown.text == f"OFFSET  LENGTH\n{5 * CLUSTER}  {2 * CLUSTER}\n"
    assert run_here("diff", image.path, "beta", "beta").text == ""
    assert same()


def test_du_shows_what_each_blob_uses_and_would_free(image: Image) -> None:
    run_here("write", image.path, "beta", "--offset", "0", stdin=b"monday")
    run_here("snapshot", image.path, "beta", "monday")
    run_here("write", image.path, "beta", "--offset", "0", stdin=b"tuesday")
    same = unchanged(image.path)
    done = run("du", image.path, "--json")
    assert conforms(done.json, USAGE)
    alpha, beta, monday = (
        {name: size // CLUSTER for name, size in entry.items() if type(size) is int}
        for entry in done.json["blobs"]
    )
    del alpha["id"], beta["id"], monday["id"]
    assert alpha == {"size": 4, "refer": 4, "own": 4, "shared": 0, "freed": 4, "by_snapshots": 0}
    assert beta == {"size": 16, "refer": 2, "own": 1, "shared": 1, "freed": 1, "by_snapshots": 1}
    assert monday == {"size": 16, "refer": 2, "own": 2, "shared": 1, "freed": 1}
    (only,) = run_here("du", image.path, "beta", "--json").json["blobs"]
    assert only == done.json["blobs"][1]
    shown = run_here("du", image.path, "monday").text.splitlines()
    assert shown[0].split("  ")[0] == "ID"
    assert [cell.strip() for cell in shown[1].split("  ") if cell.strip()][1:] == [
        "1 MiB", "128 KiB", "128 KiB", "64 KiB", "64 KiB", "-", "monday",
    ]  # fmt: skip
    assert same()


@pytest.fixture
def chain(image: Image) -> Image:
    """A store in which `beta` has two snapshots that differ in one cluster."""
    run_here("snapshot", image.path, "beta", "monday")
    run_here("write", image.path, "beta", "--offset", str(5 * CLUSTER), stdin=b"tuesday")
    run_here("snapshot", image.path, "beta", "tuesday")
    return image


def content(path: Path, name: str) -> bytes:
    return run_here("read", path, name).stdout


def test_send_and_receive_carry_a_chain_through_files_and_pipes(chain: Image, empty: Path) -> None:
    file = empty.parent / "monday.stream"
    same = unchanged(chain.path)
    sent = run("send", chain.path, "monday", "--to", file, "--json")
    assert conforms(sent.json, SENT)
    assert (sent.json["data"], sent.json["stream"]) == (CLUSTER, file.stat().st_size)
    received = run("receive", empty, "--from", file, "--json")
    assert conforms(received.json, {"id": ID})
    pipe = run("send", chain.path, "tuesday", "--from", "monday")
    assert (pipe.status, pipe.stderr) == (0, "")
    assert same()
    assert run("receive", empty, "renamed", stdin=pipe.stdout).text == "0x100000002\n"
    assert content(empty, "monday") == content(chain.path, "monday")
    assert content(empty, "renamed") == content(chain.path, "tuesday")
    info = run_here("show", empty, "renamed", "--json").json
    assert (info["parent"], info["read_only"]) == (received.json["id"], True)


def test_a_stream_is_sent_on_where_it_broke_off(chain: Image, empty: Path) -> None:
    run_here("write", chain.path, "beta", stdin=bytes(range(256)) * 16 * 256)
    run_here("snapshot", chain.path, "beta", "large")
    stream = run("send", chain.path, "large", "--level", "0").stdout
    assert run_here("receive", empty, "--resume-token", "--json").error["errno"] == "ENOENT"
    broken = run("receive", empty, stdin=stream[:-60], environment={})
    assert broken.status == 1
    assert "what came is kept" in broken.stderr
    done = run("receive", empty, "--resume-token", "--json")
    assert conforms(done.json, UNFINISHED)
    (entry,) = done.json["unfinished"]
    token = run("receive", empty, "--resume-token").text.strip()
    assert token == entry["token"]
    rest = run("send", chain.path, "--resume", token)
    assert len(rest.stdout) < 1000
    assert run("receive", empty, stdin=rest.stdout).status == 0
    assert content(empty, "large") == content(chain.path, "large")


def test_a_stream_without_a_byte_is_said_to_be_empty(empty: Path) -> None:
    done = run("receive", empty, "--json")
    assert done.error == {
        "errno": "EILSEQ", "message": "stream: empty, expected what `send` writes",
    }  # fmt: skip
    short = run("receive", empty, stdin=b"BS")
    assert short.stderr == "stream: record 0: the stream ends 10 bytes early\n"


def test_a_stream_cut_in_its_first_data_says_that_nothing_is_kept(
    chain: Image, empty: Path
) -> None:
    stream = run_here("send", chain.path, "monday", "--level", "0").stdout
    cut = run_here("receive", empty, stdin=stream[:-100])
    assert cut.status == 1
    assert cut.stderr.endswith(" bytes early; nothing is kept: send the whole stream again\n")
    assert run_here("receive", empty, "--resume-token").status == 1


def test_a_snapshot_that_is_received_again_is_said_to_be_here(chain: Image, empty: Path) -> None:
    monday = run_here("send", chain.path, "monday").stdout
    assert run_here("receive", empty, stdin=monday).status == 0
    again = run_here("receive", empty, "--json", stdin=monday)
    assert (again.status, again.error["errno"]) == (1, "EEXIST")
    assert again.error["message"].endswith(
        "exists, id 0x100000000; the same snapshot is here already"
    )
    tuesday = run_here("send", chain.path, "tuesday", "--from", "monday").stdout
    other = run_here("receive", empty, "monday", stdin=tuesday)
    assert other.stderr.endswith("0x100000000; NAME gives the snapshot another name\n")


def test_the_error_of_a_send_names_the_store(image: Image) -> None:
    done = run("send", image.path, "beta")
    assert done.stderr.startswith(f"{image.path}: blob {image.thin:#x}: not read-only")
    refused = run("delete", image.path, "beta")
    assert refused.stderr.startswith(f"{image.path}: blob beta: delete it: not on a terminal")


def test_the_error_of_an_attribute_that_belongs_to_a_volume_names_the_store(tmp_path: Path) -> None:
    path = tmp_path / "volumes.img"
    with VolumeStore.create(path, name="v", size="16MiB", cluster_size=CLUSTER) as store:
        store.create_volume("web", "1MiB")
    for change in (("set", path, "web", "name", "x"), ("remove", path, "web", "uuid")):
        done = run("xattr", *change)
        assert (done.status, done.stderr.startswith(f"{path}: ")) == (1, True)


def test_the_copy_of_a_blob_without_a_name_is_no_volume_with_a_number_as_name(
    image: Image, tmp_path: Path
) -> None:
    """An id as name would mean another blob of the target."""
    run_here("xattr", "remove", image.path, "beta", "name")
    target = tmp_path / "volumes.img"
    VolumeStore.create(target, name="v", size="16MiB", cluster_size=CLUSTER).close()
    assert run("copy", image.path, target).status == 0
    names = [blob["name"] for blob in run("list", target, "--json").json["blobs"]]
    assert names == ["v", "alpha", f"blob-{image.thin:#x}"]


def test_a_damaged_stream_leaves_no_snapshot(chain: Image, empty: Path) -> None:
    stream = bytearray(run("send", chain.path, "monday").stdout)
    stream[-100] ^= 1
    error = run("receive", empty, "--json", stdin=bytes(stream)).error
    assert error["errno"] == "EILSEQ"
    assert error["message"].startswith("stream: record 1: ")
    assert run_here("list", empty, "--json").json["blobs"] == []


def test_a_stream_is_not_written_to_a_terminal_nor_over_a_file(chain: Image) -> None:
    file = chain.path.parent / "file"
    file.write_bytes(b"precious")
    refused = run("send", chain.path, "monday", "--to", file, "--json")
    assert refused.error["errno"] == "EEXIST"
    assert file.read_bytes() == b"precious"
    assert run("send", chain.path, "monday", "--to", file, "--yes").status == 0
    assert file.read_bytes().startswith(b"BLOBSTRM")


def test_a_dash_is_standard_output_and_standard_input(
    chain: Image, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sent = run("send", chain.path, "monday", "--to", "-")
    assert sent.stdout == run("send", chain.path, "monday").stdout
    assert run("receive", empty, "--from", "-", stdin=sent.stdout).status == 0
    assert content(empty, "monday") == content(chain.path, "monday")
    assert not (tmp_path / "-").exists()
    assert run("import", empty, "-").status == 2


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["send", "{}"], id="nothing to send"),
        pytest.param(["send", "{}", "monday", "--resume", "x"], id="two things to send"),
        pytest.param(["send", "{}", "--from", "monday", "--resume", "x"], id="two bases"),
        pytest.param(["receive", "{}", "name", "--resume-token"], id="a name for a token"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(chain: Image, arguments: list[str]) -> None:
    assert run(*(word.format(chain.path) for word in arguments)).status == 2


def test_in_a_shell_a_stream_comes_from_a_file(chain: Image, empty: Path) -> None:
    file = empty.parent / "monday.stream"
    run_here("send", chain.path, "monday", "--to", file)
    script = f"receive --from {file} first\nreceive second\n"
    done = run("shell", empty, stdin=script.encode())
    assert (done.status, done.stdout) == (1, b"0x100000000\n")
    assert "use --from FILE" in done.stderr


def test_a_snapshot_of_the_command_line_has_an_identity_and_a_time(image: Image) -> None:
    before = int(time.time())
    run_here("snapshot", image.path, "beta", "monday")
    xattrs = run_here("show", image.path, "monday", "--json").json["xattrs"]
    assert sorted(xattrs) == ["name", "snapshot_id", "snapshot_time"]
    assert before <= int(bytes.fromhex(xattrs["snapshot_time"])) <= time.time()
    assert UUID(bytes.fromhex(xattrs["snapshot_id"])[:36].decode()).version == 4
    farm = image.path.parent / "farm.img"
    run_here("init", farm, "--size", "64MiB", "--volumes", "farm")
    run_here("create", farm, "barn", "--size", "4MiB", "--thin")
    run_here("snapshot", farm, "barn", "barn@monday")
    xattrs = run_here("show", farm, "barn@monday", "--json").json["xattrs"]
    assert sorted(xattrs) == ["name", "snapshot_time", "uuid"]


def test_prune_deletes_what_no_rule_keeps_after_a_dry_run_and_a_question(chain: Image) -> None:
    run_here("snapshot", chain.path, "beta", "wednesday")
    before = content(chain.path, "beta")
    same = unchanged(chain.path)
    planned = run("prune", chain.path, "beta", "--keep-last", "1", "--dry-run", "--json")
    assert conforms(planned.json, PRUNED)
    assert [each["name"] for each in planned.json["deleted"]] == ["tuesday", "monday"]
    assert [(e["name"], e["reasons"]) for e in planned.json["kept"]] == [("wednesday", ["last"])]
    refused = run("prune", chain.path, "beta", "--keep-last", "1", "--json")
    assert refused.error["errno"] == "EPERM"
    assert same()
    done = run("prune", chain.path, "beta", "--keep-last", "1", "--yes")
    assert (done.status, done.text.count("(deleted)")) == (0, 2)
    left = run_here("list", chain.path, "--json").json["blobs"]
    names = [bytes.fromhex(info["xattrs"]["name"]) for info in left]
    assert names == [b"alpha", b"beta", b"wednesday"]
    assert content(chain.path, "beta") == before
    assert run("prune", chain.path, "beta").status == 2


def test_copy_makes_all_blobs_or_one_tree_again_in_another_store(chain: Image, empty: Path) -> None:
    same = unchanged(chain.path)
    done = run("copy", chain.path, empty, "--tree", "beta", "--json")
    assert conforms(done.json, COPIED)
    assert same()
    for name in ("beta", "monday", "tuesday"):
        assert content(empty, name) == content(chain.path, name)
    tree = run_here("map", empty, "--json").json["tree"]
    assert [(entry["name"], entry["depth"]) for entry in tree] == [
        ("monday", 0), ("tuesday", 1), ("beta", 2),
    ]  # fmt: skip
    again = run("copy", chain.path, empty, "--json")
    assert again.error["errno"] == "EEXIST"
    assert run("copy", chain.path, empty, "--prefix", "x-").text.startswith("ID")
    assert content(empty, "x-alpha") == content(chain.path, "alpha")
    within = run("copy", empty, empty, "--tree", "beta", "--prefix", "y-")
    assert within.status == 0
    assert content(empty, "y-tuesday") == content(chain.path, "tuesday")
