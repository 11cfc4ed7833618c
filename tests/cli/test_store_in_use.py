"""A store that another process has open: `--wait`, and what the error says to do."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from blobstore import Blobstore
from blobstore.device.lock_holder import advice_on
from tests.cli.conftest import Image
from tests.cli.runner import COMMAND, run

HOLD: Final = """
import sys
from blobstore import Blobstore
with Blobstore.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(image: Image) -> Iterator[Blobstore]:
    with Blobstore.open(image.path) as store:
        yield store


@pytest.mark.slow
def test_eight_commands_at_once_all_succeed_with_wait(empty: Path) -> None:
    command = [*COMMAND, "create", str(empty), "--size", "64K", "--wait", "60"]
    commands = [subprocess.Popen(command, stdout=subprocess.PIPE) for _number in range(8)]
    ids = [process.communicate()[0] for process in commands]
    assert [process.returncode for process in commands] == [0] * 8
    assert len({*ids}) == len(run("list", empty, "--json").json["blobs"]) == 8


@pytest.mark.parametrize(
    "command",
    [
        ("create", "{store}", "--size", "64K"),
        ("list", "{store}"),
        ("dump", "{store}"),
        ("grow", "{store}"),
        ("check", "{store}"),
        ("repair", "{store}"),
        ("rescue", "{store}"),
        ("init", "{store}", "--yes"),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_command_waits_until_the_store_is_let_go(
    held: Blobstore, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("blobstore.api.waiting.time.sleep", lambda _seconds: held.close())
    arguments = [word.format(store=held.device_name) for word in command]
    assert run(*arguments, "--wait", "60").status == 0
    assert held.closed


@pytest.mark.parametrize("wait", [[], ["--wait", "0.01"]], ids=["at once", "after the wait"])
def test_a_store_still_in_use_is_an_error_that_names_the_option_once(
    image: Image, wait: list[str]
) -> None:
    command = [sys.executable, "-c", HOLD, str(image.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = run("create", image.path, "--size", "64K", "--json", *wait)
        holder.kill()
    assert (done.status, done.error["errno"]) == (1, "EBUSY")
    message, hint, _rest = done.error["message"].partition("; --wait SECONDS waits until it has")
    assert f"in use by process {holder.pid} (" in message
    assert bool(hint) == (not wait)
    assert message.endswith("; waited 0.01 s") == bool(wait)


def test_a_file_that_is_a_store_in_use_is_refused_with_what_to_do(
    image: Image, empty: Path
) -> None:
    command = [sys.executable, "-c", HOLD, str(empty)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = run("import", image.path, empty, "--name", "new")
        holder.kill()
    assert done.stderr.startswith(
        f"{empty}: a store that is open, in use by process {holder.pid} ("
    )
    assert done.stderr.endswith("); try again when it has ended\n")


def test_a_store_that_is_two_arguments_of_one_command_is_not_waited_for(image: Image) -> None:
    assert run("import", image.path, image.path, "--name", "new").stderr == (
        f"{image.path}: cannot be opened for writing: in use by this process\n"
    )


def test_ctrl_c_ends_a_command_that_waits(held: Blobstore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "blobstore.api.waiting.time.sleep", lambda _s: signal.raise_signal(signal.SIGINT)
    )
    done = run("create", held.device_name, "--size", "64K", "--wait", "3600")
    assert (done.status, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("wait", ["-1", "nan", "soon"])
def test_a_wait_that_is_no_number_of_seconds_is_a_usage_error(image: Image, wait: str) -> None:
    done = run("list", image.path, "--wait", wait)
    assert done.status == 2
    assert f"{wait!r}: expected a number of seconds, 0 or more" in done.stderr


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("serve", "`kill {pid}` ends it"),
        ("rpc", "`kill {pid}` ends it"),
        ("attach", "detach of its devices ends it"),
        ("mount", "unmounting its directory ends it"),
        ("shell", "leaving its prompt ends it"),
        ("import", None),
    ],
)
@pytest.mark.parametrize("changes", [False, True])
def test_a_server_that_has_a_store_is_named_with_what_ends_it(
    command: str, advice: str | None, changes: bool
) -> None:
    pid = os.getpid()  # a process whose command line names no socket
    expected = None if advice is None else advice.format(pid=pid)
    assert advice_on(f"process {pid} (blobstore {command})", changes=changes) == expected


@pytest.mark.parametrize(
    ("command", "option"),
    [("serve", ["--rpc", "r.sock"]), ("attach", ["--rpc=r.sock"]), ("rpc", ["--socket", "r.sock"])],
)
def test_whoever_changes_volumes_is_told_the_rpc_socket_that_the_server_has(
    tmp_path: Path, command: str, option: list[str]
) -> None:
    wait = [sys.executable, "-c", "print(flush=True); input()", "blobstore", command, *option]
    pipe = subprocess.PIPE
    with subprocess.Popen(wait, stdin=pipe, stdout=pipe, cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        holder = f"process {process.pid} (blobstore {command})"
        to_change = advice_on(holder, changes=True)
        to_read = advice_on(holder, changes=False)
        process.kill()
    assert to_change == (
        f"its JSON-RPC socket {tmp_path}/r.sock takes snapshots and other changes of volumes; "
        f"{to_read}"
    )


def test_of_a_server_that_has_ended_or_is_another_users_no_socket_is_named() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    holder = f"process {process.pid} (blobstore serve)"
    assert advice_on(holder, changes=True) == f"`kill {process.pid}` ends it"
