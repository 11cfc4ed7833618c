"""A command that cannot end removes what it began, or says what is left, in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import Image
from tests.cli.runner import COMMAND, Terminal, run, run_here, unchanged
from tests.proof.interrupted_commands import CASES
from tests.shared import CHECKOUT

pytestmark = pytest.mark.slow

MOMENTS = 6


def test_a_signal_at_any_moment_leaves_nothing_half_made() -> None:
    """The short form of the proof, in one process that imports once and forks: all commands."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.proof.interrupted_commands", "--moments", str(MOMENTS)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    tried = [line.partition(": ") for line in done.stdout.splitlines()]
    assert [name for name, _colon, _told in tried] == [case.name for case in CASES]
    assert all(told.startswith(f"{MOMENTS} moments in ") for _name, _colon, told in tried)


def test_an_import_whose_source_cannot_be_read_leaves_no_blob(empty: Path) -> None:
    """The source promises a page, and has a few bytes."""
    source = "/sys/kernel/uevent_seqnum"
    for options in ([], ["--thin"]):
        done = run("import", empty, source, "--name", "new", *options, "--json")
        assert (done.status, done.error["errno"]) == (1, "EIO")
    assert run_here("list", empty, "--json").json == {"blobs": []}
    assert run_here("info", empty, "--json").json["clean"]


def test_an_import_over_a_blob_that_fails_says_what_is_left(image: Image) -> None:
    source = "/sys/kernel/uevent_seqnum"
    done = run("import", image.path, source, "alpha", "--yes")
    assert done.status == 1
    assert done.stderr.endswith(
        f"; blob {image.thick:#x} is a mixture of {source} and its old content: import again\n"
    )
    assert done.stderr.count("\n") == 1


def run_limited(blocks: int, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose files may have at most this number of blocks of 512 bytes.

    Python writes no bytecode there: the limit would cut the file off, and every later start of
    Python would fail at that file.
    """
    limit = ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*limit, *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, check=False, env=environment)


@pytest.mark.parametrize("yes", [[], ["--yes"]], ids=["new", "over a file"])
def test_an_export_without_space_leaves_what_was_there(
    image: Image, tmp_path: Path, yes: list[str]
) -> None:
    """The limit of a file's size stands for a disk that is full."""
    with Blobstore.open(image.path) as store, store.open_blob(name="alpha") as blob:
        blob.write(b"x" * blob.size)
    if yes:
        (tmp_path / "out").write_bytes(b"mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    same = unchanged(image.path)
    done = run_limited(128, "export", image.path, "alpha", tmp_path / "out", *yes)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{tmp_path / 'out'}: File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not yes or (tmp_path / "out").read_bytes() == b"mine"
    assert same()


def test_an_export_over_a_file_keeps_its_rights(image: Image, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"mine")
    out.chmod(0o640)
    assert run_here("export", image.path, "alpha", out, "--yes").status == 0
    assert out.stat().st_mode & 0o777 == 0o640


def test_a_picture_that_cannot_be_written_leaves_the_old_one(image: Image, tmp_path: Path) -> None:
    out = tmp_path / "map.svg"
    out.write_text("<svg>old</svg>")
    done = run_limited(1, "map", image.path, "--svg", out)
    assert done.returncode == 1
    assert out.read_text() == "<svg>old</svg>"
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_shell_at_its_prompt_and_leaves_the_store_clean(
    image: Image, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with Terminal("shell", image.path, environment={"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.type("", until="disk.img> ")
        terminal.type("create new --size 64K\n", until="disk.img> ")
        assert terminal.end_by(number) == status
    assert run_here("info", image.path, "--json").json["clean"]


def test_a_signal_ends_a_script_that_keeps_going_too(image: Image) -> None:
    with subprocess.Popen(
        [*COMMAND, "shell", image.path, "--keep-going"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"create new --size 64K\n")
        shell.stdin.flush()
        shell.stdout.readline()
        shell.send_signal(signal.SIGINT)
        _out, error = shell.communicate()
    assert shell.returncode == 130
    assert error.count(b"\n") == 1
    assert run_here("info", image.path, "--json").json["clean"]
