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


def test_the_python_and_the_commands_work_on_one_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "README.md", "exec"), {})
    assert capsys.readouterr().out == "b'hello' ['debian', 'debian@monday', 'web']\n"
    Path("mail.raw").write_bytes(b"a letter" * 10000)
    mke2fs, *commands = block("console").splitlines()
    assert mke2fs.startswith("$ mke2fs ")
    for line in commands:
        assert line.startswith("$ blobstore ")
        done = run(*shlex.split(line)[2:])
        assert (done.status, done.stderr) == (0, ""), line
    assert Path("mail.stream").stat().st_size > 0
    assert "<svg" in Path("map.svg").read_text(encoding="utf-8")


def test_the_python_takes_ten_lines() -> None:
    assert len([line for line in block("python").splitlines() if line]) <= 10


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (CHECKOUT / link).is_file()] == []


def test_it_fits_a_screen() -> None:
    assert len(README.splitlines()) <= 75
