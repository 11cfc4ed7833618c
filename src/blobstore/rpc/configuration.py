"""A configuration file, as the original writes and reads it: calls by subsystem.

    {"subsystems": [{"subsystem": "bdev", "config": [{"method": ..., "params": {...}}]}]}

The calls are made one after the other, before the server listens. Start-up methods come first,
then the start-up state is left, then all others.
"""

import json
import os
from typing import Any

from blobstore.errors import InvalidArgumentError
from blobstore.rpc.json_stream import InvalidJsonError, Json, JsonStream, Members
from blobstore.rpc.methods import METHODS, STARTUP, call
from blobstore.rpc.protocol import RpcError
from blobstore.rpc.target import Target


def read_configuration(path: str | os.PathLike[str]) -> list[tuple[str, Members | None]]:
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
        return [_call_of(step) for group in groups for step in _flattened(group)]
    except (ValueError, KeyError, TypeError, AttributeError, InvalidJsonError) as error:
        raise InvalidArgumentError(f"{os.fspath(path)}: no configuration: {error}") from error


def _flattened(calls: list[Any]) -> list[dict[str, Any]]:
    flat: list[dict[str, Any]] = []
    for step in calls:
        flat += step if isinstance(step, list) else [step]
    return flat


def _call_of(step: dict[str, Any]) -> tuple[str, Members | None]:
    params = step.get("params")
    if params is None:
        return step["method"], None
    (value,) = JsonStream().feed(json.dumps(params).encode())
    if not isinstance(value, Members):
        raise InvalidJsonError("params that are no object")
    return step["method"], value


def apply_configuration(target: Target, calls: list[tuple[str, Members | None]]) -> None:
    """Make all calls of a configuration.

    Raises:
        InvalidArgumentError: One of them failed; it is named.
    """
    early = [found for found in calls if _is_early(found[0])]
    late = [found for found in calls if not _is_early(found[0])]
    for name, params in early:
        _apply(target, name, params)
    if not target.is_initialized:
        target.start()
    for name, params in late:
        _apply(target, name, params)


def _is_early(name: str) -> bool:
    return name in METHODS and METHODS[name].states == STARTUP


def _apply(target: Target, name: str, params: Json) -> None:
    try:
        call(target, name, params if isinstance(params, Members) else None)
    except RpcError as error:
        raise InvalidArgumentError(f"configuration: {name}: {error.message}") from error
