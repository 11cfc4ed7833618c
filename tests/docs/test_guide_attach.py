"""Every command of docs/guide-attach.md works as it stands there, one after the other."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.attach.attachments import Attachments, attachments
from tests.docs.guide_session import GuideSession, commands_of
from tests.docs.test_guides import script_of
from tests.fuse.mounts import mounting
from tests.shared import CHECKOUT

pytestmark = pytest.mark.slow

GUIDE: Final = (CHECKOUT / "docs" / "guide-attach.md").read_text(encoding="utf-8")


@pytest.fixture
def attached() -> Iterator[Attachments]:
    with attachments() as found:
        yield found


@pytest.fixture
def session(tmp_path: Path, attached: Attachments) -> GuideSession:
    """A user who has run the guide's Python."""
    subprocess.run([sys.executable, "-c", script_of(GUIDE)], cwd=tmp_path, check=True)
    return GuideSession(tmp_path, {"XDG_RUNTIME_DIR": str(attached.runtime)})


class Devices:
    """The devices that `attach` made, in the place of those that the guide shows."""

    def __init__(self, attached: Attachments) -> None:
        self._attached = attached
        self._ours: dict[str, str] = {}

    def line(self, line: str) -> str:
        """Return a line of the guide as it has to be typed here."""
        for shown, ours in self._ours.items():
            line = line.replace(shown, ours)
        return line

    def add(self, shown: str, output: str) -> None:
        """Note a device that was printed."""
        assert re.fullmatch(r"/dev/(loop|nbd)\d+\n", output)
        self._ours[shown] = output.strip()
        self._attached.made.add(Path(output.strip()))


def test_every_command_does_what_it_says(session: GuideSession, attached: Attachments) -> None:
    devices, directory = Devices(attached), session.directory
    with contextlib.ExitStack() as servers:
        for line, shown in commands_of(GUIDE):
            if line.startswith("blobstore mount "):
                _program, _mount, store, files, *options = line.split()
                servers.enter_context(mounting(directory / store, directory / files, *options))
                continue
            if line.startswith("blobstore attach "):
                servers.close()  # the store is unmounted first
            printed = session.run(devices.line(line))
            assert printed or not line.startswith(("ls", "dd if=files", "python3")), line
            if shown:
                devices.add(shown, printed)
    assert attached.is_empty()
