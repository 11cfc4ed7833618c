"""What `top` shows: the difference of two answers of a server, as rates and percentiles.

The server is asked by its JSON-RPC, at the socket of `serve --rpc` or of `rpc`. That socket has all
that a socket for this alone would need: it is the owner's, it frames its answers, it limits its
clients. So there is one such socket and not two.
"""

import errno
import json
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from blobstore import DeviceError
from blobstore.nbd.activity import KINDS, percentile_ns

_REQUEST: Final = b'{"jsonrpc": "2.0", "id": 1, "method": "nbd_get_statistics"}'
_TIMEOUT_S: Final = 30
_EXPECTED: Final = "the PATH of `serve --rpc PATH` or `rpc --socket PATH`"
_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_MICROSECONDS: Final = 1e3

Key = tuple[str, str, str]
"""The address, the export and the peer of a connection."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What was done each second, and how long it took in microseconds."""

    requests: float
    bytes: float
    errors: float
    latency_us: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one client does on an export, by kind of request."""

    address: str
    export: str
    peer: str
    rates: Mapping[str, Rate]


def ask(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return what the server's clients have done so far.

    Raises:
        DeviceError: No server answers at the socket, or another one.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(os.fspath(path))
            connection.sendall(_REQUEST)
            with connection.makefile("rb") as answers:
                result: Mapping[str, Any] = json.loads(answers.readline())["result"]
                return result
    except OSError as error:
        raise _failure(os.fspath(path), error) from error
    except (ValueError, KeyError) as error:
        raise DeviceError(
            f"{os.fspath(path)}: no server with statistics, expected {_EXPECTED}"
        ) from error


def _failure(path: str, error: OSError) -> DeviceError:
    """Say why no server answers; for a file, the system says only `Connection refused`."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return DeviceError(f"{path}: not a socket, expected {_EXPECTED}", errno=errno.ENOTSOCK)
    why = error.strerror or str(error)
    return DeviceError(f"{path}: no server with statistics: {why}", errno=error.errno)


def difference(
    before: Mapping[str, Any], now: Mapping[str, Any], seconds: float
) -> Sequence[Traffic]:
    """Return what each client that is connected now has done since, the busiest first."""
    old = _by_key(before["connections"])
    found = [
        Traffic(
            *key, {kind: _rate(old.get(key, {}).get(kind), each[kind], seconds) for kind in _ALL}
        )
        for key, each in _by_key(now["connections"]).items()
    ]
    return sorted(found, key=lambda each: -sum(rate.bytes for rate in each.rates.values()))


_ALL: Final = tuple(KINDS.values())


def _by_key(connections: Sequence[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any]]:
    """Return connections by what tells them apart; several of one client are counted as one."""
    found: dict[Key, Mapping[str, Any]] = {}
    for each in connections:
        key = (each["address"], each["export"], each["peer"])
        found[key] = _sum(found[key], each) if key in found else each
    return found


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    summed: dict[str, Any] = {}
    for kind in _ALL:
        first, second = one[kind], other[kind]
        latencies = dict(first["latencies"])
        for bound, count in second["latencies"]:
            latencies[bound] = latencies.get(bound, 0) + count
        numbers = {name: first[name] + second[name] for name in ("requests", "bytes", "errors")}
        summed[kind] = {**numbers, "latencies": sorted(latencies.items())}
    return summed


def _rate(before: Mapping[str, Any] | None, now: Mapping[str, Any], seconds: float) -> Rate:
    """Return the rates since; of a client that has connected since, all it has done."""
    old = before or {"requests": 0, "bytes": 0, "errors": 0, "latencies": []}
    if old["requests"] > now["requests"]:  # one of several connections of the client has ended
        old = now
    known = dict(map(tuple, old["latencies"]))
    latencies = [(bound, count - known.get(bound, 0)) for bound, count in now["latencies"]]
    return Rate(
        requests=(now["requests"] - old["requests"]) / seconds,
        bytes=(now["bytes"] - old["bytes"]) / seconds,
        errors=(now["errors"] - old["errors"]) / seconds,
        latency_us={
            name: percentile_ns(latencies, share) / _MICROSECONDS for name, share in _SHARES.items()
        },
    )
