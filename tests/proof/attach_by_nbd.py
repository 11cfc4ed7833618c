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
_TIMEOUT_S: Final = 3600
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
        with subprocess.Popen(
            _MACHINE, cwd=name, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            errors="replace",
        ) as machine:  # fmt: skip
            assert machine.stdout is not None
            status = 1
            for line in machine.stdout:
                sys.stdout.write(line)
                found = _STATUS.search(line)
                status = int(found[1]) if found else status
    return status


if __name__ == "__main__":
    sys.exit(main())
