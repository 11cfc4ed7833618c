"""The man pages: one for each command, with its options, and nothing that man complains of."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from blobstore.cli.group import COMMANDS, group
from scripts import man_pages


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("man")
    (path / "blobstore-of-old.1").touch()
    man_pages.main(str(path))
    return path


def test_every_command_has_a_page_and_no_other_has(directory: Path) -> None:
    expected = {"blobstore.1", *(f"blobstore-{name}.1" for name in COMMANDS)}
    assert {path.name for path in directory.iterdir()} == expected


def test_a_page_has_what_help_prints(directory: Path) -> None:
    context = click.Context(group, info_name="blobstore")
    for name, summary in COMMANDS.items():
        command = group.get_command(context, name)
        assert command is not None
        page = (directory / f"blobstore-{name}.1").read_text().replace("\\-", "-")
        assert summary.rstrip(".") in page.replace("\\(dq", '"')
        with click.Context(command, info_name=name, parent=context) as below:
            for param in command.get_params(below):
                if isinstance(param, click.Option) and not param.hidden:
                    assert all(option in page for option in param.opts), (name, param.opts)


def test_the_page_of_the_program_lists_all_commands(directory: Path) -> None:
    page = (directory / "blobstore.1").read_text().replace("\\-", "-").split(".SH EXIT")[0]
    found = re.findall(r"^\.BR blobstore-([a-z-]+) \(1\)$", page, re.MULTILINE)
    assert found == list(COMMANDS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_shows_every_page_without_a_warning(directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", str(path)],
            env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "", path.name
        shown = re.sub(".\b", "", done.stdout)  # bold is a letter twice
        for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
            assert title in shown, path.name


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_mandoc_finds_no_error(directory: Path) -> None:
    command = ["mandoc", "-T", "lint", "-W", "error", *map(str, directory.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""
