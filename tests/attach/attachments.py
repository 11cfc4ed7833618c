"""`blobstore attach` and `detach`; no device, mount or process outlives its test."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from blobstore.attach import kernel_nbd
from tests.cli.runner import Result, run_process
from tests.fuse.mounts import skip_without_fuse

_TIMEOUT_S: Final = 60


BY_NBD: Final = kernel_nbd.is_available()
"""Whether devices here are the kernel's NBD devices, as in `make vm`, and not loop devices."""


def skip_without_block_devices() -> None:
    """Skip the test where this process cannot attach."""
    if os.geteuid() != 0:
        pytest.skip("block devices need root")
    if not BY_NBD:
        skip_without_fuse()
        if not os.path.exists("/dev/loop-control"):
            pytest.skip("the kernel has no loop devices")
    for program in ("losetup", "mkfs.ext4", "fstrim", "blkdiscard"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@dataclass
class Attachments:
    """What is attached in a runtime directory of the test's own."""

    runtime: Path
    pids: list[int] = field(default_factory=list)
    made: set[Path] = field(default_factory=set)

    def run(self, *arguments: str | os.PathLike[str]) -> Result:
        """Run a command as a user of this runtime directory."""
        return run_process(*arguments, environment={"XDG_RUNTIME_DIR": str(self.runtime)})

    def attach(self, store: Path, blob: str, *options: str) -> Path:
        """Attach a blob, and return its device."""
        attached = self.run("attach", store, blob, "--json", *options).json
        self.pids.append(attached["pid"])
        self.made.add(Path(attached["device"]))
        return Path(attached["device"])

    def detach(self, device: Path) -> None:
        """Detach a device."""
        done = self.run("detach", device)
        assert (done.status, done.text, done.stderr) == (0, "", "")

    def end(self, number: signal.Signals) -> None:
        """Send the process that was asked last a signal, and wait for its end."""
        process = os.pidfd_open(self.pids[-1])
        try:
            signal.pidfd_send_signal(process, number)
            wait_for_end(process)
        finally:
            os.close(process)

    def devices(self) -> list[Path]:
        """Return the devices that are attached."""
        return [device for device in self.made if self._is_attached(device)]

    def _is_attached(self, device: Path) -> bool:
        kernel = Path("/sys/block", device.name)
        if BY_NBD:
            return (kernel / "pid").exists()
        try:
            file = (kernel / "loop/backing_file").read_text()
        except FileNotFoundError:
            return False
        return file.startswith((f"{self.runtime}/", "/0x"))  # a killed process's has no directory

    def clear_killed(self, device: Path) -> None:
        """Detach the device of a killed process, where the kernel has not done that by itself."""
        told = self.run("detach", device)
        assert told.status == 1
        assert ("nothing is attached" if BY_NBD else "was killed") in told.stderr

    def is_empty(self) -> bool:
        """Say whether nothing is left: no device, no process, no file."""
        return (
            not self.devices()
            and not any(_is_running(pid) for pid in self.pids)
            and not (self.runtime / "blobstore").exists()
        )

    def clean(self) -> None:
        """Remove whatever a failed test has left."""
        mounts = [line.split()[:2] for line in Path("/proc/self/mounts").read_text().splitlines()]
        devices = self.devices()
        for source, target in reversed(mounts):
            if Path(source) in devices:
                subprocess.run(["umount", "-l", target], check=False)
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for device in [] if BY_NBD else devices:
            subprocess.run(["losetup", "-d", device], check=False, capture_output=True)
        for _source, target in mounts:
            if target.startswith(f"{self.runtime}/"):
                subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        shutil.rmtree(self.runtime)


def _is_running(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(process: int) -> None:
    """Wait until the process of a pidfd has ended."""
    assert select.select([process], [], [], _TIMEOUT_S)[0]


@contextlib.contextmanager
def attachments() -> Iterator[Attachments]:
    """Have a runtime directory, and leave nothing of what is attached there."""
    skip_without_block_devices()
    found = Attachments(Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp")))  # socket paths are short
    try:
        yield found
    finally:
        found.clean()


@contextlib.contextmanager
def file_system(device: Path, directory: Path, *options: str) -> Iterator[Path]:
    """Mount a device's file system until the `with` ends."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, device, directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
