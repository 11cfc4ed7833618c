"""The commands of docs/guide-vm.md work as they stand there; `make vm` runs the machine as well."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.guide_session import GuideSession, commands_of
from tests.shared import CHECKOUT

pytestmark = pytest.mark.slow

GUIDE: Final = (CHECKOUT / "docs" / "guide-vm.md").read_text(encoding="utf-8")
LOG: Final = "line 1\nline 2\n"


@pytest.fixture
def session() -> Iterator[GuideSession]:
    """A user who has the image of a disk; the path is short enough for sockets."""
    for program in ("nbdkit", "nbdcopy", "qemu-io", "mke2fs"):
        if shutil.which(program, path="/usr/bin:/usr/sbin:/bin:/sbin") is None:
            pytest.skip(f"{program} is not installed")
    with tempfile.TemporaryDirectory(prefix="vm-", dir="/tmp") as name:
        session = GuideSession(Path(name))
        (session.directory / "root").mkdir()
        (session.directory / "root/log").write_text(LOG)
        session.run("mke2fs -q -t ext4 -d root root.img 16M")
        yield session


def test_every_command_but_the_machine_does_what_it_says(session: GuideSession) -> None:
    with contextlib.ExitStack() as servers:
        for line, _shown in commands_of(GUIDE):
            if line.startswith("blobstore serve "):
                servers.enter_context(session.serving(line, ("vms.sock", "rpc.sock")))
            elif not line.startswith("qemu-system"):
                session.run(line)
    assert (session.directory / "log.txt").read_text() == LOG
    golden = (session.directory / "golden.raw").read_bytes()
    assert golden.startswith((session.directory / "root.img").read_bytes())
