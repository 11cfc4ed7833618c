"""The same mistake ends every command with the same status: 1 failed, 2 usage, 141 unread."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

import pytest

from blobstore.cli.group import COMMANDS
from tests.cli.runner import COMMAND, run

STORE: Final = {
    "attach": "{} web",
    "bench": "{}",
    "check": "{}",
    "clone": "{} monday new",
    "copy": "{} volumes.img --prefix x",
    "create": "{} new --size 1M",
    "decouple": "{} web",
    "delete": "{} web --yes",
    "destroy": "{} --yes",
    "diff": "{} web monday",
    "du": "{}",
    "dump": "{}",
    "export": "{} web out.raw",
    "grow": "{}",
    "import": "{} content --name new",
    "inflate": "{} web",
    "info": "{}",
    "init": "{}",
    "list": "{}",
    "map": "{}",
    "mount": "{} .",
    "prune": "{} web --keep-last 1 --yes",
    "read": "{} web",
    "receive": "{} new --from content",
    "recover": "{}",
    "reid": "{}",
    "rename": "{} web new",
    "rename-store": "{} new",
    "repair": "{}",
    "rescue": "{}",
    "resize": "{} web 2M",
    "rollback": "{} web monday --yes",
    "rpc": "--socket rpc.sock {}",
    "send": "{} monday --to out.stream",
    "serve": "{} --nbd unix:nbd.sock",
    "set-parent": "{} web monday",
    "set-read-only": "{} web",
    "shallow-copy": "{} monday content",
    "shell": "{}",
    "show": "{} web",
    "snapshot": "{} web new",
    "super": "get {}",
    "undo": "{} content",
    "unmap": "{} web --offset 0 --length 4K",
    "write": "{} web content",
    "xattr": "list {} web",
    "zero": "{} web --offset 0 --length 4K",
}
"""What follows each command, with the place of STORE."""

WITHOUT_STORE: Final = {"completion", "demo", "detach", "top"}
CHECKING: Final = {"check", "repair"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory with a volume store, a file, and a directory."""
    monkeypatch.chdir(tmp_path)
    Path("content").write_bytes(b"content" * 1000)
    Path("directory").mkdir()
    assert run("init", "volumes.img", "--size", "96M", "--volumes", "vms").status == 0
    assert run("create", "volumes.img", "web", "--size", "4M").status == 0
    assert run("snapshot", "volumes.img", "web", "monday").status == 0
    return tmp_path


def test_every_command_that_takes_a_store_is_among_these() -> None:
    assert {*STORE} | WITHOUT_STORE == {*COMMANDS}


@pytest.mark.parametrize("command", STORE)
@pytest.mark.parametrize(
    ("store", "errno"), [("missing.img", "ENOENT"), ("directory", "EISDIR")], ids=["missing", "dir"]
)
def test_a_store_that_cannot_be_opened_is_an_operation_that_failed(
    command: str, store: str, errno: str
) -> None:
    done = run(command, *shlex.split(STORE[command].format(store)), "--json")
    assert (done.status, done.error["errno"]) == (8 if command in CHECKING else 1, errno)
    assert done.error["message"].startswith(f"{store}: ")


@pytest.mark.parametrize(
    ("mistake", "errno"),
    [
        ("write volumes.img web missing", "ENOENT"),
        ("write volumes.img web directory", "EISDIR"),
        ("import volumes.img missing --name new", "ENOENT"),
        ("import volumes.img directory --name new", "EISDIR"),
        ("receive volumes.img new --from missing", "ENOENT"),
        ("receive volumes.img new --from directory", "EISDIR"),
        ("export volumes.img web missing/out", "ENOENT"),
        ("export volumes.img web directory", "EISDIR"),
        ("export volumes.img web content", "EEXIST"),
        ("send volumes.img monday --to missing/out", "ENOENT"),
        ("send volumes.img monday --to directory", "EISDIR"),
        ("map volumes.img --svg missing/out", "ENOENT"),
        ("map volumes.img --html directory", "EISDIR"),
        ("shallow-copy volumes.img monday missing", "ENOENT"),
        ("shallow-copy volumes.img monday directory", "EISDIR"),
        ("copy volumes.img missing", "ENOENT"),
        ("xattr set volumes.img web key @missing", "ENOENT"),
        ("xattr set volumes.img web key @directory", "EISDIR"),
        ("mount volumes.img missing", "ENOENT"),
        ("mount volumes.img content", "ENOTDIR"),
        ("serve volumes.img --nbd unix:nbd.sock --tls missing", "ENOENT"),
        ("rpc --socket rpc.sock --config missing", "ENOENT"),
        ("rpc --socket rpc.sock --config directory", "EISDIR"),
        ("undo volumes.img missing", "ENOENT"),
        ("top missing", "ENOENT"),
        ("detach missing", "ENOENT"),
        ("info volumes.img --external id=missing", "ENOENT"),
        ("init directory --size 64M", "EISDIR"),
        ("init missing/new.img --size 64M", "ENOENT"),
        ("show volumes.img missing", "ENOENT"),
        ("create volumes.img web --size 1M", "EEXIST"),
        ("create volumes.img new --size 1T", "ENOSPC"),
    ],
)
def test_a_mistake_about_a_file_or_blob_is_one_line_with_its_errno(
    mistake: str, errno: str
) -> None:
    done = run(*shlex.split(mistake), "--json")
    assert (done.status, done.error["errno"]) == (1, errno)
    plain = run(*shlex.split(mistake))
    assert (plain.status, plain.stderr.count("\n")) == (1, 1)
    assert ".part" not in plain.stderr


def test_whether_a_store_can_be_read_is_found_out_by_opening_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Root can read every file, so that no file's rights can show this."""
    monkeypatch.setattr(os, "access", lambda *_arguments, **_options: False)
    assert run("list", "volumes.img").status == 0


def test_a_missing_file_to_make_a_store_in_needs_a_size() -> None:
    assert run("init", "new.img").stderr == (
        "new.img: no such file or directory; --size SIZE makes a file\n"
    )


# Streams


UNREAD: Final = {
    "help": "--help",
    "version": "--version",
    "read": "read volumes.img web",
    "list": "list volumes.img",
    "json": "list volumes.img --json",
    "dump": "dump volumes.img",
    "send": "send volumes.img monday",
    "check": "check volumes.img",
    "map": "map volumes.img",
    "made": "create volumes.img new --size 1M",
    "completion": "completion bash",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", UNREAD.values(), ids=UNREAD)
def test_a_command_whose_output_nobody_reads_ends_as_if_by_sigpipe(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, *shlex.split(words)]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
def test_a_script_of_the_shell_ends_when_nobody_reads_its_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "shell", "volumes.img", "--keep-going"]
    lines = b"list\ncreate new --size 1M\n"
    try:
        done = subprocess.run(
            command, input=lines, stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    assert run("show", "volumes.img", "new").status == 1


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_standard_stream_is_as_dev_null(closed: str) -> None:
    """The store would otherwise get the number of the stream, and what is printed might hit it."""
    sound = run("check", "volumes.img").stdout
    for words in (
        "read volumes.img web",
        "list volumes.img",
        "write volumes.img web",
        "shell volumes.img",
    ):
        command = f"{shlex.join(COMMAND)} {words} {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False, input=b"")
        assert (words, done.returncode, done.stderr) == (words, 0, b"")
    failed = f"{shlex.join(COMMAND)} list missing.img {closed}"
    done = subprocess.run(["sh", "-c", failed], capture_output=True, check=False)
    assert done.returncode == 1
    assert run("check", "volumes.img").stdout == sound
