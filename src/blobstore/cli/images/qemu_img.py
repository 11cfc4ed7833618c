"""What qemu-img does for us: it only ever sees files that we name.

An image can name other files: a backing file, or files for its data. A VMDK's descriptor
can name any. What an image says is never opened by qemu-img: its description of what to open
forbids a backing file, and images that name files for data are refused before it runs.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

from blobstore import DeviceError, InvalidArgumentError, UnsupportedError
from blobstore.cli.files import blaming, give_name, locked_target, open_to_read, refuse_link
from blobstore.cli.images.formats import check_format
from blobstore.cli.images.qcow2_header import read_header
from blobstore.cli.images.source_checks import check_source
from blobstore.cli.interruption import uninterrupted
from blobstore.cli.progress import progress

_WITH_BACKING: Final = ("qcow2", "vmdk")
_PERCENT: Final = re.compile(rb"\((\d+\.\d+)/100%\)")
_DESCRIPTION: Final = re.compile(r"'json:\{.*\}'")
_PARTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of the disk that an image itself holds: data, or zeroes that it says are there."""

    start: int
    end: int
    is_zero: bool


@contextmanager
def as_raw(path: str, image_format: str) -> Iterator[str]:
    """Convert what an image itself holds to a raw file that lives as long as the body runs.

    What its backing file holds reads as zeroes.

    Raises:
        UnsupportedError: qemu-img is not installed.
        InvalidArgumentError: No such image, or one whose data are in other files.
        DeviceError: qemu-img failed.
    """
    tool = _find_tool(image_format)
    with open_to_read(path) as descriptor:
        check_source(descriptor, path, image_format)
        with _directory(None) as directory:
            raw = os.path.join(directory, "raw")
            _convert(tool, _alone(path, image_format, descriptor), "raw", raw, path=path)
            yield raw


@contextmanager
def open_disk(path: str, image_format: str) -> Iterator[int]:
    """Open an image as a raw file.

    Raises:
        As `as_raw`.
    """
    if image_format == "raw":
        with open_to_read(path) as descriptor:
            yield descriptor
    else:
        with as_raw(path, image_format) as raw, open_to_read(raw) as descriptor:
            yield descriptor


@contextmanager
def to_convert(path: str, image_format: str, *, overwrite: bool) -> Iterator[str]:
    """Give the path of a raw file to make; when the body ends it becomes the image `path`.

    Durability: The image is durable before it gets its name.

    Raises:
        UnsupportedError: qemu-img is not installed.
        ExistsError: `path` exists, and `overwrite` was not given.
        BlobstoreError: `path` is a symbolic link (ELOOP).
    """
    tool = _find_tool(image_format)
    refuse_link(path)
    with locked_target(path, overwrite=overwrite), _directory(path) as directory:
        raw, image = os.path.join(directory, "raw"), os.path.join(directory, "image")
        yield raw
        source = _description("raw", "file", raw)
        _convert(tool, source, image_format, image, path=path)
        _sync(image)  # qemu-img does not
        give_name(image, path, overwrite=overwrite)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def extents_of(path: str, image_format: str) -> list[Extent]:
    """Return which ranges of its disk an image itself holds, in order.

    Raises:
        UnsupportedError: qemu-img is not installed, or older than 6.1.
        DeviceError: qemu-img failed.
    """
    tool = _find_tool(image_format)
    with open_to_read(path) as descriptor:
        command = [tool, "map", "--output=json", _alone(path, image_format, descriptor)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise _failed(done.stderr, done.returncode, path)
    extents: list[Extent] = []
    for found in json.loads(done.stdout):
        if "present" not in found:
            raise UnsupportedError("qemu-img: older than 6.1, which cannot tell holes from zeroes")
        if found["present"]:
            start = found["start"]
            extents.append(Extent(start, start + found["length"], is_zero=found["zero"]))
    return extents


def refuse_backing(path: str, image_format: str) -> None:
    """Refuse a qcow2 image that holds only what differs from another: --chain imports both.

    Raises:
        InvalidArgumentError: It is one.
    """
    with open_to_read(path) as descriptor:
        check_format(descriptor, image_format, path=path)
        if image_format == "qcow2":
            backing = read_header(descriptor, path=path).backing
            if backing is not None:
                raise InvalidArgumentError(
                    f"{path}: needs another file, {backing}: --chain imports that one, and "
                    "those that it needs, as snapshots"
                )


def _alone(path: str, image_format: str, descriptor: int) -> str:
    """Describe an image without its backing file, as qemu-img takes it in place of a name."""
    is_block = stat.S_ISBLK(os.fstat(descriptor).st_mode)
    return _description(image_format, "host_device" if is_block else "file", path)


def _description(image_format: str, driver: str, path: str) -> str:
    """Return what to open, as JSON.

    Raises:
        InvalidArgumentError: JSON has no bytes that are no UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{path}: a path for qemu-img, expected UTF-8") from error
    fields: dict[str, object] = {
        "driver": image_format,
        "file": {"driver": driver, "filename": os.path.abspath(path)},
    }
    if image_format in _WITH_BACKING:
        fields["backing"] = None
    if image_format == "vpc":
        fields["force_size_calc"] = "current_size"  # the geometry can end before the disk does
    return f"json:{json.dumps(fields)}"


@contextmanager
def _directory(beside: str | None) -> Iterator[str]:
    """Make a directory that lives as long as the body runs, beside a file or in TMPDIR."""
    with ExitStack() as stack:
        parent = None if beside is None else os.path.dirname(os.path.abspath(beside))
        with uninterrupted(), nullcontext() if beside is None else blaming(beside):
            made = tempfile.TemporaryDirectory(prefix=".blobstore-", dir=parent)
            directory = stack.enter_context(made)
        yield directory


def _find_tool(image_format: str) -> str:
    tool = shutil.which("qemu-img")
    if tool is None:
        raise UnsupportedError(f"{image_format}: needs qemu-img, which is not installed")
    return tool


def _convert(tool: str, source: str, image_format: str, target: str, *, path: str) -> None:
    command = [tool, "convert", "-p", "-O", image_format]
    if image_format == "vpc":
        command += ["-o", "force_size=on"]  # otherwise the disk grows to a whole geometry
    command += [source, os.path.abspath(target)]
    _run(command, path)


def _run(command: Sequence[str], path: str) -> None:
    """Run qemu-img for the image `path` and show how far it is; an interrupt ends it."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            assert process.stdout is not None
            with progress(f"convert {os.path.basename(path)}", _PARTS, is_bytes=False) as advance:
                done = 0
                while text := os.read(process.stdout.fileno(), 4096):
                    for found in _PERCENT.findall(text)[-1:]:
                        parts = int(float(found) * _PARTS / 100)
                        advance(parts - done)
                        done = parts
        except BaseException:
            process.kill()
            raise
        process.wait()
        errors.seek(0)
        if process.returncode:
            raise _failed(errors.read(), process.returncode, path)


def _failed(errors: bytes, status: int, path: str) -> DeviceError:
    """Return what qemu-img says; where that has our description of the image, with `path`."""
    reason = errors.decode("utf-8", "replace").strip() or f"status {status}"
    reason = _DESCRIPTION.sub(lambda _found: f"'{path}'", reason.removeprefix("qemu-img: "))
    return DeviceError(f"qemu-img: {reason}")
