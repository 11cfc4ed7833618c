"""Metrics of the NBD servers in the text format of OpenMetrics, over HTTP.

Counters of an export never become smaller while the process runs. A label has the export's own
name, whatever clients called it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Final, Self

from blobstore import InvalidArgumentError
from blobstore.nbd.activity import Activity, Meter
from blobstore.nbd.nbd_server import Address, NbdServer
from blobstore.serving import ConnectionThreads, Serve, listen_tcp

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_TIMEOUT_S: Final = 5
_GRACE_S: Final = 5
_CONNECTIONS_MAX: Final = 8
_NANOSECONDS: Final = 1e9
_BOUNDS_NS: Final = tuple(10**exponent * step for exponent in range(4, 10) for step in (1, 2, 5))
"""The bounds of the histogram: 10 us to 5 s."""


def render(servers: Sequence[NbdServer], free_bytes: int) -> str:
    """Return all metrics as text."""
    totals: dict[str, Activity] = {}
    open_now: Counter[str] = Counter()
    for server in servers:
        for export, activity in server.totals():
            totals.setdefault(export, Activity()).add(activity)
        open_now.update(connection.export for connection in server.connections())
    lines = [
        *_family("blobstore_free_bytes", "gauge", "Space that writes can still get.", "bytes"),
        f"blobstore_free_bytes {free_bytes}",
        *_family("blobstore_nbd_connections", "gauge", "Clients that have an export open."),
        *(f"blobstore_nbd_connections{_labels(name)} {open_now[name]}" for name in totals),
        *_counters("blobstore_nbd_requests", "Requests that were done.", totals, _requests),
        *_counters("blobstore_nbd_errors", "Requests that failed.", totals, _errors),
        *_counters("blobstore_nbd_bytes", "Bytes that requests were for.", totals, _bytes, "bytes"),
        *_histogram(totals),
        "# EOF",
    ]
    return "\n".join(lines) + "\n"


def _requests(meter: Meter) -> int:
    return meter.requests


def _errors(meter: Meter) -> int:
    return meter.errors


def _bytes(meter: Meter) -> int:
    return meter.bytes


def _family(name: str, kind: str, text: str, unit: str = "") -> list[str]:
    units = [f"# UNIT {name} {unit}"] if unit else []
    return [f"# TYPE {name} {kind}", *units, f"# HELP {name} {text}"]


def _counters(
    name: str, text: str, totals: dict[str, Activity], value: Callable[[Meter], int], unit: str = ""
) -> Iterator[str]:
    yield from _family(name, "counter", text, unit)
    for export, activity in totals.items():
        for kind, meter in activity.meters.items():
            yield f"{name}_total{_labels(export, kind)} {value(meter)}"


def _histogram(totals: dict[str, Activity]) -> Iterator[str]:
    name = "blobstore_nbd_duration_seconds"
    yield from _family(name, "histogram", "From the receive until the answer is sent.", "seconds")
    for export, activity in totals.items():
        for kind, meter in activity.meters.items():
            latencies = meter.latencies()
            for bound in _BOUNDS_NS:
                below = sum(count for limit, count in latencies if limit <= bound)
                yield f"{name}_bucket{_labels(export, kind, bound / _NANOSECONDS)} {below}"
            count = sum(count for _limit, count in latencies)
            yield f"{name}_bucket{_labels(export, kind, '+Inf')} {count}"
            yield f"{name}_sum{_labels(export, kind)} {meter.nanoseconds / _NANOSECONDS}"
            yield f"{name}_count{_labels(export, kind)} {count}"


def _labels(export: str, kind: str = "", bound: object = "") -> str:
    escaped = export.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    named = {"export": escaped, "kind": kind, "le": bound}
    pairs = ",".join(f'{name}="{value}"' for name, value in named.items() if value != "")
    return f"{{{pairs}}}"


def _answering(text: Callable[[], str]) -> Serve:
    """Return what answers the request of a connection.

    The names of the handler's members are the standard library's.
    """

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = text().encode()
        handler.send_response(200)
        handler.send_header("Content-Type", CONTENT_TYPE)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def log_message(_handler: BaseHTTPRequestHandler, _format: str, *_args: object) -> None:
        """Say nothing."""

    members = {"timeout": _TIMEOUT_S, "do_GET": answer, "log_message": log_message}
    handler: Any = type("MetricsHandler", (BaseHTTPRequestHandler,), members)
    return lambda connection: handler(connection, connection.getpeername(), None)


class MetricsServer:
    """Answers every GET with the metrics. Leaving its `with` stops it.

    A client that sends nothing is hung up on, and holds up no other.
    """

    def __init__(self, address: str, text: Callable[[], str]) -> None:
        """Listen at ``HOST:PORT``; `text` returns what is answered.

        Raises:
            InvalidArgumentError: Not such an address.
            OSError: There is no such address, or it is taken.
        """
        wanted = Address.parse(address)
        if wanted.path:
            raise InvalidArgumentError(f"{address!r}: expected HOST:PORT")
        listener = listen_tcp(wanted.host, wanted.port)
        self.address = Address("", *listener.getsockname()[:2])
        self._threads = ConnectionThreads(
            listener, _answering(text), name="metrics", connections_max=_CONNECTIONS_MAX
        )
        self._threads.start()

    def close(self) -> None:
        """Answer what was asked, and stop."""
        self._threads.stop(_GRACE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
