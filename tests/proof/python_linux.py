"""A Linux for a virtual machine in which this checkout runs: Debian's kernel, and Python from here.

The root file system has this Python, what the tests need of its packages, the checkout, and some
programs, each with the libraries that it needs, at the places that they have here. The program on
the kernel's command line is run as root, and its exit status is shown on the console.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.proof.small_linux import make_file_system, make_kernel, make_tree
from tests.shared import CHECKOUT

_PACKAGES: Final = ("blobstore", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "spdk")
_PROGRAMS: Final = ("mke2fs", "mkfs.ext4", "e2fsck", "blkdiscard", "fstrim", "losetup")
_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_DIRECTORIES: Final = ("src", "tests")
_FILES: Final = ("pyproject.toml", "CHANGELOG.md")
_NOT_COPIED: Final = shutil.ignore_patterns(
    "site-packages", "test", "idlelib", "ensurepip", "config-3*", "*.a"
)
_ROOT_SIZE: Final = "1G"
_LIBRARY: Final = re.compile(r"(/\S+) \(0x")

_INIT: Final = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
export PATH={_PATH} HOME=/tmp PYTHONPATH={CHECKOUT}/src
cd {CHECKOUT}
sh /task
echo "VM: status $?"
poweroff -f
"""


def make_python_linux(directory: Path, task: str) -> None:
    """Make `vmlinuz`, `initrd.img` and `root.img` in a directory; `task` is a shell's.

    Raises:
        SystemExit: A program or a package is missing.
    """
    busybox = make_kernel(directory)
    tree = directory / "root"
    make_tree(tree, busybox, "sbin/init", _INIT)
    (tree / "task").write_text(task)
    for name in ("run", "sys", "tmp"):
        (tree / name).mkdir()
    for source in _sources():
        _copy(source, tree)
    for library in _libraries(tree):
        _copy(library, tree)
    _compile(tree)
    make_file_system(directory / "root.img", tree, _ROOT_SIZE)


def _sources() -> Iterator[Path]:
    yield Path(sys.executable)
    yield Path(sys.prefix, "pyvenv.cfg")
    yield Path(sys.base_prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    yield from (CHECKOUT / name for name in (*_DIRECTORIES, *_FILES))
    for program in _PROGRAMS:
        found = shutil.which(program, path=_PATH)
        if found is None:
            sys.exit(f"needs {program}")
        yield Path(found)
    for package in _with_requirements(_PACKAGES):
        for file in package.files or ():
            path = Path(str(package.locate_file(file)))
            if path.is_file():
                yield path


def _with_requirements(names: tuple[str, ...]) -> list[importlib.metadata.Distribution]:
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed by this version of Python
        for requirement in found[name].requires or ():
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            if match is not None and "extra ==" not in requirement:
                wanted.append(match[0])
    return list(found.values())


def _copy(source: Path, tree: Path) -> None:
    """Copy a file or a directory, and whatever its symbolic links lead to."""
    target = tree / source.relative_to("/")
    if target.exists() and not source.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=_NOT_COPIED, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)  # a compiled file has the time of its source


def _compile(tree: Path) -> None:
    """Compile all modules here, which takes the machine a minute."""
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/"]
    directories = [tree / Path(top).relative_to("/") for top in (sys.prefix, CHECKOUT / "src")]
    subprocess.run([*command, *directories], check=True)


def _libraries(tree: Path) -> set[Path]:
    """Return the shared libraries that programs and extension modules in a tree need."""
    files = [file for file in tree.rglob("*") if file.is_file() and _is_elf(file)]
    shown = subprocess.run(
        ["ldd", *files], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout
    found = {Path(path) for path in _LIBRARY.findall(shown)}
    return {path for path in found if not path.is_relative_to(tree)}


def _is_elf(file: Path) -> bool:
    with open(file, "rb") as content:
        return content.read(4) == b"\x7fELF"
