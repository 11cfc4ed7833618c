"""A configuration file, as the original writes and reads it: calls by subsystem.

    {"subsystems": [{"subsystem": "bdev", "config": [{"method": ..., "params": {...}}]}]}

The calls are made one after the other, before the server listens. Start-up methods come first,
then the start-up state is left, then all others.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from blobstore.errors import BlobstoreError, InvalidArgumentError
from blobstore.rpc.json_stream import InvalidJsonError, JsonStream, Members
from blobstore.rpc.methods import METHODS, STARTUP, call
from blobstore.rpc.protocol import RpcError
from blobstore.rpc.target import Target

_SHAPE: Final = '{"subsystems": [{"config": [{"method": ...}]}]}'


@dataclass(frozen=True, slots=True)
class ConfiguredCall:
    """One call of a configuration; `place` is its file, method and parameters, for messages."""

    method: str
    params: Members | None
    place: str


def read_configuration(path: str | os.PathLike[str]) -> list[ConfiguredCall]:
    """Return the calls of a file, in order.

    Raises:
        InvalidArgumentError: The file is no configuration.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        document = json.loads(content)
        groups = [entry.get("config") or [] for entry in document["subsystems"]]
        steps = [step for group in groups for step in _flattened(group)]
        return [_call_of(step, os.fspath(path)) for step in steps]
    except (ValueError, InvalidJsonError) as error:
        raise InvalidArgumentError(f"no configuration: {error}").at(
            store=os.fspath(path)
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidArgumentError(f"no configuration: expected {_SHAPE}").at(
            store=os.fspath(path)
        ) from error


def _flattened(calls: list[Any]) -> list[dict[str, Any]]:
    flat: list[dict[str, Any]] = []
    for step in calls:
        flat += step if isinstance(step, list) else [step]
    return flat


def _call_of(step: dict[str, Any], path: str) -> ConfiguredCall:
    method, params = step["method"], step.get("params")
    if params is None:
        return ConfiguredCall(method, None, f"{path}: {method}")
    (value,) = JsonStream().feed(json.dumps(params).encode())
    if not isinstance(value, Members):
        raise InvalidJsonError("params that are no object")
    return ConfiguredCall(method, value, f"{path}: {method} {json.dumps(params)}")


def apply_configuration(target: Target, calls: list[ConfiguredCall]) -> None:
    """Make all calls of a configuration.

    Raises:
        InvalidArgumentError: One of them failed; it is named.
    """
    early = [found for found in calls if _is_early(found.method)]
    late = [found for found in calls if not _is_early(found.method)]
    for found in early:
        _apply(target, found)
    if not target.is_initialized:
        target.start()
    for found in late:
        _apply(target, found)


def _is_early(name: str) -> bool:
    return name in METHODS and METHODS[name].states == STARTUP


def _apply(target: Target, wanted: ConfiguredCall) -> None:
    try:
        call(target, wanted.method, wanted.params)
    except RpcError as error:
        cause = error.__cause__
        why = cause.message if isinstance(cause, BlobstoreError) else error.message
        raise InvalidArgumentError(f"{wanted.place}: {why}") from error
