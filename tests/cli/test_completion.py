"""Completion in bash, zsh and fish."""

import shutil
import subprocess
from pathlib import Path

import pytest

from blobstore import Blobstore
from tests.cli.conftest import Image
from tests.cli.runner import COMMAND, run, run_here, unchanged
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


def test_bash_completes_with_what_is_printed(image: Image, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    command = tmp_path / "blobstore"
    command.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    script = f"""
        PATH="{tmp_path}:$PATH"
        eval "$(blobstore completion bash)"
        COMP_WORDS=(blobstore show {image.path} al); COMP_CWORD=3
        _blobstore_completion blobstore al {image.path}
        echo "$COMPREPLY"
    """
    done = subprocess.run([bash, "-c", script], capture_output=True, check=True, text=True)
    assert (done.stdout, done.stderr) == ("alpha\n", "")
