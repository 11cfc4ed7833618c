"""Completion in bash, zsh and fish."""

import subprocess
from pathlib import Path

import click
import pytest

from blobstore import Blobstore, VolumeStore
from blobstore.cli.group import COMMANDS, group
from blobstore.cli.options import blob, complete_blob
from tests.cli.conftest import Image
from tests.cli.runner import COMMAND, Terminal, run, run_here, unchanged
from tests.cli.schema import conforms


def completions(*words: str) -> list[list[str]]:
    """Return what is offered for the last word: kind, value, and what it means."""
    environment = {
        "_BLOBSTORE_COMPLETE": "zsh_complete",
        "COMP_WORDS": " ".join(["blobstore", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = run(environment=environment)
    assert (done.status, done.stderr) == (0, "")
    lines = done.text.splitlines()
    return [lines[at : at + 3] for at in range(0, len(lines) - 2, 3)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_variable_does(shell: str) -> None:
    printed = run("completion", shell)
    assert (printed.status, printed.stderr) == (0, "")
    asked = run(environment={"_BLOBSTORE_COMPLETE": f"{shell}_source"})
    assert printed.text.rstrip() == asked.text.rstrip()
    found = run_here("completion", shell, "--json").json
    assert conforms(found, {"shell": str, "script": str})
    assert f"_BLOBSTORE_COMPLETE={shell}_complete" in found["script"]


def test_commands_and_options_are_completed() -> None:
    ((kind, value, meaning),) = completions("sn")
    assert (kind, value) == ("plain", "snapshot")
    assert meaning.startswith("Make a read-only snapshot of a blob")
    offered = [value for _kind, value, _help in completions("create", "disk.img", "--ex")]
    assert sorted(offered) == ["--extents", "--external-snapshot"]
    assert [kind for kind, _value, _help in completions("info", "di")] == ["file"]


def test_ids_are_completed_from_the_store_also_by_name_and_change_nothing(image: Image) -> None:
    same = unchanged(image.path)
    assert completions("show", str(image.path), "0x1") == [
        ["plain", f"{image.thick:#x}", "alpha"], ["plain", f"{image.thin:#x}", "beta"],
    ]  # fmt: skip
    assert completions("super", "set", str(image.path), "be") == [
        ["plain", "beta", f"{image.thin:#x}"]
    ]
    assert same()


@pytest.mark.parametrize("name", ["two words", "2024", "$(reboot)"])
def test_a_name_that_cannot_stand_as_it_is_completes_to_the_id(image: Image, name: str) -> None:
    with Blobstore.open(image.path) as store, store.open_blob(image.thick) as blob:
        blob.set_xattr("name", name.encode())
    ((_kind, value, meaning),) = completions("show", str(image.path), name[:2])
    assert (value, meaning) == (f"{image.thick:#x}", name)


def test_a_name_that_several_blobs_have_completes_to_their_ids(image: Image) -> None:
    with Blobstore.open(image.path) as store, store.open_blob(image.thick) as blob:
        blob.set_xattr("name", b"beta")
    offered = [value for _kind, value, _help in completions("show", str(image.path), "be")]
    assert offered == [f"{image.thick:#x}", f"{image.thin:#x}"]


def test_where_the_store_cannot_be_read_nothing_is_offered_and_nothing_said(
    tmp_path: Path,
) -> None:
    assert completions("show", f"{tmp_path}/none", "0x") == []
    (tmp_path / "text").write_bytes(b"text" * 5000)
    assert completions("show", f"{tmp_path}/text", "0x") == []


@pytest.fixture
def bash(tmp_path: Path) -> str:
    """A script whose `complete LINE PIECE` is bash at work; the piece is what it cuts off."""
    command = tmp_path / "blobstore"
    command.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    return f"""
        PATH="{tmp_path}:$PATH"
        eval "$(blobstore completion bash)"
        complete() {{
            COMP_LINE=$1 COMP_POINT=${{#1}} COMPREPLY=()
            _blobstore_completion blobstore "$2"
            echo "${{COMPREPLY[@]}}"
        }}
    """


def output_of(script: str) -> list[str]:
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.slow
def test_bash_completes_with_what_is_printed(image: Image, bash: str) -> None:
    line = f"blobstore show {image.path} al"
    assert output_of(f"{bash} complete '{line}' al; complete 'blobstore sn' sn") == [
        "alpha", "snapshot",
    ]  # fmt: skip


@pytest.mark.slow
def test_bash_completes_names_of_volumes_and_snapshots_that_it_cuts(
    tmp_path: Path, bash: str
) -> None:
    path = tmp_path / "store.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=65536) as store:
        with store.create_volume("debian", "1MiB") as volume:
            volume.snapshot("debian@monday").close()
        store.create_volume("web:1", "1MiB").close()
    start = f"blobstore rollback {path} "
    script = f"""{bash}
        complete '{start}de' de
        complete '{start}debian@m' m
        complete '{start}web:' ''
        complete '{start}debian debian@' ''
        complete 'blobstore import --format=vm' vm
    """
    assert output_of(script) == ["debian debian@monday", "monday", "1", "monday", "vmdk"]


@pytest.mark.slow
def test_bash_with_a_terminal_cuts_names_as_we_think(tmp_path: Path, bash: str) -> None:
    path = tmp_path / "store.img"
    with VolumeStore.create(path, name="vms", size="16MiB", cluster_size=65536) as store:
        store.create_volume("debian@monday", "1MiB").close()
    setup = tmp_path / "setup"
    setup.write_text(bash.partition("complete()")[0])
    with Terminal("--norc", "--noprofile", "-i", program=("bash",)) as terminal:
        terminal.type(f". {setup}; cd {tmp_path}; PS1='ready''> '\n", until="ready> ")
        terminal.type("blobstore show store.img debian@m\t", until="debian@monday ")


def test_every_argument_that_is_a_blob_is_completed() -> None:
    context = click.Context(group)
    missing = []
    for name in COMMANDS:
        command = group.get_command(context, name)
        waiting = [command]
        while waiting:
            found = waiting.pop()
            waiting += found.commands.values() if isinstance(found, click.Group) else []
            for param in found.params if found else ():
                takes_blob = getattr(param.type, "func", None) is blob
                if takes_blob and param._custom_shell_complete is not complete_blob:
                    missing.append((name, param.name))
    assert missing == []
