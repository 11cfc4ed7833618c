import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.nbd.certificates import make_certificates
from tests.nbd.servers import needed, short_directory
from tests.shared import CHECKOUT

GUIDE: Final = (CHECKOUT / "docs" / "guide-network-devices.md").read_text(encoding="utf-8")
COMMANDS: Final = re.findall(r"^\$ (.*)$", GUIDE, re.MULTILINE)


@pytest.mark.slow
def test_the_commands_of_the_guide_do_what_is_said(tmp_path: Path) -> None:
    for program in ("qemu-nbd", "nbdkit", "openssl"):
        needed(program)
    with short_directory() as directory:
        (directory / "pki").mkdir()
        make_certificates(directory / "pki")
        blobstore = f'blobstore() {{ {sys.executable} -m blobstore "$@"; }}'
        commands = [command.replace("/tmp/", f"{directory}/") for command in COMMANDS]
        script = "\n".join([blobstore, *commands])
        try:
            done = subprocess.run(
                ["bash", "-euxc", script], cwd=tmp_path, capture_output=True, text=True, check=False
            )
        finally:
            for left in directory.glob("*.pid"):  # of a server that a failure left
                with suppress(ProcessLookupError):
                    os.kill(int(left.read_text()), signal.SIGTERM)
    assert done.returncode == 0, done.stderr
    assert len(COMMANDS) == 14
    assert done.stdout.count("monday") == 2  # both lists have the snapshot
