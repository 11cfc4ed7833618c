"""`rescue`: what can still be read of a store, however broken it is."""

import shlex
from dataclasses import dataclass
from typing import Final

from blobstore import CheckReport, RescuedBlob, UnreadableRange
from blobstore.backup.unfinished import unfinished_by
from blobstore.cli.options import StoreOptions, store_command
from blobstore.cli.output import (
    print_result,
    printable,
    printable_name,
    render_table,
    unicode_text,
)
from blobstore.cli.report import check_fields
from blobstore.cli.rescuing import (
    Hints,
    layout_options,
    open_rescue,
    range_fields,
    render_range,
)
from blobstore.cli.salvaged import nearest_salvaged, salvaged_fields, warn
from blobstore.units import BlobId, format_size

_LINES_MAX: Final = 8


@store_command("rescue")
@layout_options
def command(options: StoreOptions, *, hints: Hints) -> int:
    """List what can still be read of a store that does not open, and what is wrong with it.

    If the super block is lost, the command finds the layout by itself where it can.
    The options give the values that it cannot find; `export` and `read` have the same
    options. Nothing of the store changes. Sectors that the device cannot read are
    found only when `export` or `read` reads them. Status 1: nothing can be read.
    """
    with open_rescue(options, hints) as rescue:
        blobs = [*rescue.blobs()]
        known = {blob.id: blob for blob in blobs}
        found = [
            _Row(blob, blob.unreadable(), nearest_salvaged(known.get, blob.id)) for blob in blobs
        ]
        findings, assumptions = rescue.findings, rescue.assumptions
    fields = {
        "blobs": [_fields(row) for row in found],
        **_findings_fields(CheckReport(findings)),
        "assumptions": [unicode_text(line) for line in assumptions],
    }
    general = [str(finding) for finding in findings if finding.blob is None]
    store = " ".join([shlex.quote(options.address), *map(_option, hints.items())])
    text = _render(options.address, store, found, [*general, *assumptions])
    if not options.as_json:
        for row in found:
            warn(row.blob.id, row.salvaged)
    print_result(fields, text, as_json=options.as_json)
    return 0 if any(row.has_content for row in found) else 1


@dataclass(frozen=True, slots=True)
class _Row:
    blob: RescuedBlob
    unreadable: list[UnreadableRange]
    salvaged: BlobId | None

    @property
    def readable_bytes(self) -> int:
        return self.blob.size - sum(found.length for found in self.unreadable)

    @property
    def has_content(self) -> bool:
        return self.readable_bytes > 0 or not self.unreadable


def _fields(row: _Row) -> dict[str, object]:
    blob = row.blob
    return {
        "id": blob.id,
        "size": blob.size,
        "readable": row.readable_bytes,
        "parent": blob.parent,
        "xattrs": {unicode_text(name): value.hex() for name, value in blob.xattrs.items()},
        "unreadable": range_fields(row.unreadable),
        **_findings_fields(CheckReport(blob.findings)),
        **salvaged_fields(row.salvaged),
    }


def _findings_fields(report: CheckReport) -> dict[str, object]:
    return {"findings": check_fields(report)["findings"]}


def _option(hint: tuple[str, int]) -> str:
    name, value = hint
    return f"--{name.replace('_', '-')} {value}"


def _render(address: str, store: str, found: list[_Row], notes: list[str]) -> str:
    """Return the blobs in a table, then what is wrong with each, then what to do next."""
    if not found:
        return "\n".join(map(printable, [*notes, f"{address}: no blob is left"]))
    rows = [("ID", "NAME", "SIZE", "READABLE"), *map(_cells, found)]
    details = [f"{row.blob.id:#x}  {line}" for row in found for line in _details(row)]
    fill = " --zero-fill" if any(row.unreadable for row in found) else ""
    hint = f"to copy one out: blobstore export {store} BLOB FILE{fill}"
    hints = [hint] if any(row.readable_bytes for row in found) else []
    return "\n".join([render_table(rows), *map(printable, [*details, *notes, *hints])])


def _details(row: _Row) -> list[str]:
    """Say what is wrong with a blob; its id, which stands in front, is not said twice."""
    named = f" blob {row.blob.id:#x}: "
    findings = [str(finding).replace(named, " ", 1) for finding in row.blob.findings]
    command = unfinished_by(row.blob.xattrs)
    unfinished = [] if command is None else [f"not complete: its {command} was interrupted"]
    return unfinished + _first(findings) + _first([render_range(found) for found in row.unreadable])


def _first(lines: list[str]) -> list[str]:
    """Leave out what is too much to read; JSON has all."""
    left = len(lines) - _LINES_MAX
    return lines if left <= 1 else [*lines[:_LINES_MAX], f"{left} more like these, see --json"]


def _cells(row: _Row) -> tuple[str, str, str, str]:
    blob = row.blob
    name = printable_name(blob.name or "")
    is_all = not row.unreadable
    readable = "all" if is_all else format_size(row.readable_bytes)
    size = format_size(blob.size) if blob.size or blob.is_whole else "-"
    return f"{blob.id:#x}", name, size, readable
