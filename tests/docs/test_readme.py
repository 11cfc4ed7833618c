"""What README.md shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.runner import run
from tests.shared import CHECKOUT

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_python_runs_and_prints_the_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "README.md", "exec"), {})
    (line,) = capsys.readouterr().out.splitlines()
    assert "allocated_clusters=1," in line
    assert "xattrs={'name': b'vol0'}" in line


def test_the_python_takes_ten_lines() -> None:
    assert len([line for line in block("python").splitlines() if line]) <= 10


def test_the_commands_do_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("debian.raw").write_bytes(b"a system" * 10000)
    shown = ""
    for line in block("console").splitlines():
        if not line.startswith("$ blobstore "):
            assert line in shown
            continue
        done = run(*shlex.split(line)[2:])
        assert (done.status, done.stderr) == (0, "")
        shown = done.text
    assert Path("copy.raw").read_bytes().startswith(Path("debian.raw").read_bytes())


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (CHECKOUT / link).is_file()] == []


def test_it_fits_a_screen() -> None:
    assert len(README.splitlines()) <= 75
