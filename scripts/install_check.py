"""Install the wheel into a new environment that has nothing but pip, and use it there.

python scripts/install_check.py dist
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from blobstore import __version__


def run(*command: str | Path, directory: Path) -> str:
    """Run a program outside of the checkout; what it prints is the result."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(wheels: str) -> None:
    """Install, and compare what the program says with what was built."""
    (wheel,) = Path(wheels).resolve().glob("*.whl")
    with tempfile.TemporaryDirectory(prefix="install-check-") as name:
        place = Path(name)
        venv.create(place / "venv", with_pip=True)
        programs = place / "venv" / "bin"
        run(programs / "pip", "install", "--quiet", wheel, directory=place)
        version = run(programs / "blobstore", "--version", directory=place)
        assert version == f"blobstore {__version__}\n", version
        demo = run(programs / "python", "-m", "blobstore", "demo", directory=place)
        print(demo, end="")
        made = ("init", "a.img", "--size", "64MiB", "--volumes", "vms")
        run(programs / "blobstore", *made, directory=place)
        run(programs / "blobstore", "map", "a.img", "--html", "map.html", directory=place)
        assert (place / "map.html").read_text().startswith("<!doctype html>")
        assert (place / "venv" / "share" / "man" / "man1" / "blobstore-init.1").is_file()
    print(f"{wheel.name}: installs and works with nothing but pip")


if __name__ == "__main__":
    main(sys.argv[1])
