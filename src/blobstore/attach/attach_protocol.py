"""What `attach` and `detach` ask the process that serves a store, and its answers.

Both are one JSON object on a line. An answer is a result or an error.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from blobstore.errors import BlobstoreError, DeviceError

_LINE_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class AttachedDevice:
    """A block device, the blob that it shows, and the process that serves it."""

    device: str
    blob_id: int
    read_only: bool
    pid: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob to attach, as the user names it; `is_first` refuses a store that is attached."""

    blob: str
    read_only: bool
    is_first: bool


def encode_device(device: AttachedDevice) -> bytes:
    """Return the answer to `attach`."""
    return encode_line(asdict(device))


def encode_error(error: BaseException) -> bytes:
    """Return an error as an answer."""
    if isinstance(error, BlobstoreError):
        number, message = error.errno, "; ".join([error.message, *getattr(error, "__notes__", ())])
    elif isinstance(error, OSError):
        number, message = error.errno or 0, str(error)
    else:
        number, message = 0, f"{type(error).__name__}: {error}"
    return encode_line({"errno": number, "error": message})


def encode_line(fields: Mapping[str, object]) -> bytes:
    """Return an object as a line."""
    return json.dumps(fields).encode() + b"\n"


def decode_answer(line: bytes) -> dict[str, Any]:
    """Return the fields of an answer.

    Raises:
        BlobstoreError: The answer is an error.
        DeviceError: There is no answer: the process has ended.
    """
    if not line:
        raise DeviceError("the process that serves the store ended before it answered")
    fields: dict[str, Any] = json.loads(line)
    if "error" in fields:
        raise BlobstoreError(fields["error"], errno=fields["errno"] or None)
    return fields


def receive_line(connection: socket.socket) -> bytes:
    """Receive a line; nothing, if the peer has gone."""
    received = b""
    while not received.endswith(b"\n") and len(received) < _LINE_MAX:
        part = connection.recv(_LINE_MAX)
        if not part:
            break
        received += part
    return received


def ask(path: str, fields: Mapping[str, object]) -> dict[str, Any]:
    """Ask the process that listens at a socket, and return its answer.

    Raises:
        ConnectionRefusedError, FileNotFoundError: No process listens there.
        BlobstoreError: As `decode_answer`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(path))
        connection.sendall(encode_line(fields))
        return decode_answer(receive_line(connection))
