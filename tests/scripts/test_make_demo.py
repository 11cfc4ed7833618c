"""`make demo` installs what the program needs and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.shared import CHECKOUT


def test_make_demo_installs_the_packages_dependencies_and_nothing_else(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, tmp_path)
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON"))
    }
    planned = subprocess.run(
        ["make", "--dry-run", "demo"],
        cwd=tmp_path,
        env=outside,  # of the `make test PYTHON=...` that runs this test, nothing is inherited
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installing = [line for line in planned.splitlines() if "--constraint" in line]
    assert installing
    assert all("-r .venv/needed.txt" in line for line in installing)
    (script,) = [line for line in planned.splitlines() if line.endswith(">.venv/needed.txt")]
    needed = subprocess.run(
        [sys.executable, "-c", script.split("'")[1]], cwd=tmp_path, capture_output=True, check=True
    ).stdout.decode()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert needed.splitlines() == project["dependencies"]
