"""`python -m tests.proof.attach_by_nbd`: `attach` on a kernel that has NBD devices.

A virtual machine with Debian's kernel runs the tests of `attach` and of its guide's commands, and
kills attached processes as `tests.proof.attach_kills` does. All devices there are the kernel's NBD
devices.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.proof.python_linux import make_python_linux

_TASK: Final = """\
{python} -m pytest -n 0 -p no:cacheprovider --durations=5 {tests} || exit
{python} -m tests.proof.attach_kills --kills {kills} || exit
dmesg | grep -E 'hung task|blocked for more than|BUG|Oops' && exit 1
test -z "$(ls -d /sys/block/nbd*/pid 2>/dev/null)"
"""
_MACHINE: Final = (
    "qemu-system-x86_64", "-cpu", "max", "-m", "1536", "-smp", "2", "-nographic", "-no-reboot",
    "-kernel", "vmlinuz", "-initrd", "initrd.img",
    "-append", "console=ttyS0 quiet panic=-1 task=write",
    "-drive", "if=virtio,format=raw,file=root.img",
)  # fmt: skip
_TESTS: Final = "tests/attach"
_SHOWN_AT_ONCE: Final = 4096
_STATUS: Final = re.compile(r"VM: status (\d+)")


def main(arguments: list[str] | None = None) -> int:
    """Run it once; what the machine shows is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tests", default=_TESTS, help="what pytest is given")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="vm-", dir="/tmp") as name:
        task = _TASK.format(python=sys.executable, tests=given.tests, kills=given.kills)
        make_python_linux(Path(name), task)
        shown = run_machine(Path(name))
    found = _STATUS.search(shown)
    return int(found[1]) if found else 1


def run_machine(directory: Path) -> str:
    """Run the machine of a directory to its end; print what it shows, and return it."""
    shown = ""
    with subprocess.Popen(
        _MACHINE, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
    ) as machine:
        assert machine.stdout is not None
        while part := machine.stdout.read(_SHOWN_AT_ONCE).decode(errors="replace"):
            sys.stdout.write(part)
            sys.stdout.flush()
            shown += part
    return shown


if __name__ == "__main__":
    sys.exit(main())
