"""Programs of the system that speak NBD; a test of one that is missing is skipped."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

SYSTEM_PYTHON: Final = "/usr/bin/python3"
_TIMEOUT_S: Final = 240


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    missing = [name for name in programs if find(name) is None]
    reason = f"not installed: {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing), reason=reason)


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def call(
    program: str, *arguments: str | Path, status: int = 0, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, which must end with the status."""
    found = find(program)
    assert found is not None
    done = subprocess.run(
        [found, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def answer(program: str, *arguments: str | Path) -> Any:
    """Run a program that prints JSON."""
    return json.loads(call(program, *arguments).stdout)
