"""`top`: who reads and writes how much over NBD, live."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from blobstore.cli.options import PathType, json_option
from blobstore.cli.output import print_json, printable

if TYPE_CHECKING:
    from rich.table import Table

    from blobstore.cli.traffic import Traffic

_SHOWN: Final = ("read", "write")
_WIDE: Final = 140
"""From this many columns on all rates are shown."""


@click.command("top")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, metavar="SECONDS"
)
@click.option("--once", is_flag=True, help="Show one interval, also on a terminal.")
@json_option
@click.argument("path", type=PathType(path_type=Path), metavar="SOCKET")
def command(path: Path, interval: float, once: bool, as_json: bool) -> int:
    """Show who reads and writes how much over NBD, until Ctrl-C.

    SOCKET is the RPC socket of `blobstore serve --rpc SOCKET` or `blobstore rpc`. A latency is
    the time from the arrival of a request until its answer is sent. Not on a terminal, and with
    --json, one interval is shown.
    """
    shown = _intervals(path, interval)
    if as_json:
        print_json({"interval_s": interval, "connections": [_fields(each) for each in next(shown)]})
        return 0
    from rich.console import Console
    from rich.live import Live

    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    if once or not sys.stdout.isatty():
        console.print(_screen(next(shown), console.width))
        return 0
    with Live(console=console, auto_refresh=False, screen=True) as live:
        try:
            for traffic in shown:
                live.update(_screen(traffic, console.width), refresh=True)
        except KeyboardInterrupt:
            pass
    return 0


def _intervals(path: Path, interval: float) -> "Iterator[Sequence[Traffic]]":
    from blobstore.cli.traffic import ask, difference

    before, began = ask(path), time.monotonic()
    while True:
        time.sleep(interval)
        now, ended = ask(path), time.monotonic()
        yield difference(before, now, ended - began)
        before, began = now, ended


def _fields(traffic: "Traffic") -> dict[str, object]:
    rates = {
        kind: {
            "requests_per_s": rate.requests,
            "bytes_per_s": rate.bytes,
            "errors_per_s": rate.errors,
            "latency_us": dict(rate.latency_us),
        }
        for kind, rate in traffic.rates.items()
    }
    return {
        "address": traffic.address,
        "export": traffic.export,
        "peer": traffic.peer,
        **rates,
    }


def _screen(traffic: "Sequence[Traffic]", width: int) -> "Table | str":
    """Return a table that fits: a narrow one has no medians and no flushes."""
    if not traffic:
        return "no client is connected"
    return _table(traffic, shares=("p50", "p99") if width >= _WIDE else ("p99",))


def _table(traffic: "Sequence[Traffic]", shares: Sequence[str]) -> "Table":
    from rich.table import Table

    is_wide = len(shares) > 1
    table = Table(box=None, pad_edge=False)
    table.add_column("EXPORT", overflow="fold")
    table.add_column("CLIENT", overflow="fold")
    for kind in _SHOWN:
        for title in ("/S", "MIB/S", *map(str.upper, shares)):
            table.add_column(f"{kind.upper()} {title}", justify="right", no_wrap=is_wide)
    if is_wide:
        table.add_column("FLUSH /S", justify="right", no_wrap=True)
    table.add_column("ERRORS /S", justify="right", no_wrap=is_wide)
    for each in traffic:
        cells = [printable(each.export), each.peer]
        for kind in _SHOWN:
            rate = each.rates[kind]
            cells += [f"{rate.requests:.0f}", f"{rate.bytes / (1 << 20):.1f}"]
            cells += [_time(rate.latency_us[share]) for share in shares]
        if is_wide:
            cells.append(f"{each.rates['flush'].requests:.0f}")
        table.add_row(*cells, f"{sum(rate.errors for rate in each.rates.values()):.0f}")
    return table


def _time(microseconds: float) -> str:
    if not microseconds:
        return "-"
    return f"{microseconds:.0f} us" if microseconds < 1000 else f"{microseconds / 1000:.1f} ms"
