"""The users of a block device, for the message that says why the device is not available.

The kernel's answer to a claim is what counts; this only looks for the reason,
and may not find it (another mount namespace).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_SYSFS: Final = Path("/sys")


def describe_use(path: str | os.PathLike[str]) -> str:
    """Say what the device of this name is used for, or return nothing."""
    try:
        return describe_use_of(os.stat(path).st_rdev)
    except OSError:
        return ""


def describe_use_of(number: int, *, proc: Path = _PROC, sysfs: Path = _SYSFS) -> str:
    """Say what the device of this number is used for, or return nothing."""
    places = list(_with_partitions(sysfs / f"dev/block/{os.major(number)}:{os.minor(number)}"))
    numbers = {_read(place / "dev").strip() for place in places}
    for line in _read(proc / "self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[2] in numbers:
            return f"mounted at {_unescaped(fields[4])}"
    names = [place.resolve().name for place in places]
    for line in _read(proc / "swaps").splitlines()[1:]:
        if os.path.basename(os.path.realpath(line.split()[0])) in names:
            return "used as swap"
    holders = [holder for place in places for holder in _names_in(place / "holders")]
    return f"used by {', '.join(holders)}" if holders else ""


def _with_partitions(place: Path) -> Iterator[Path]:
    yield place
    for name in _names_in(place):
        if (place / name / "partition").exists():
            yield place / name


def _names_in(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    """Undo the kernel's escapes of blanks and backslashes in a mount point."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field
