"""The picture as one page of HTML that needs no network and no other file.

The table of blobs is written here, the clusters are drawn by `page.js` from the numbers in
the page. Names are text in both: they are escaped here, and the script sets no markup. A
policy in the page lets no other script run.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby, zip_longest
from string import Template
from typing import Final

from blobstore import BlobId, BlobInfo
from blobstore.cli.output import printable
from blobstore.cli.picture.cells import OTHER, Cell, Key, keys_of, strip_of
from blobstore.cli.picture.inherited import inherited_clusters
from blobstore.cli.picture.ownership_map import (
    EXTERNAL,
    HOLE,
    Branch,
    OwnershipMap,
    Reader,
    Source,
    Use,
)
from blobstore.cli.rendering import kind_of
from blobstore.units import exact_size, format_size

_STRIP_CELLS: Final = 48
_INDENT_MAX: Final = 12
_EXPANDED: Final = ' aria-expanded="true"'
_USES: Final = {
    Use.METADATA: "metadata",
    Use.FREE: "free",
    Use.UNKNOWN: "in use, by no blob that can be opened",
}
_USE_NUMBERS: Final = {use: -1 - number for number, use in enumerate(_USES)}
_SOURCE_COLOURS: Final = {HOLE: "var(--free)", EXTERNAL: "var(--used)"}


def render_page(ownership: OwnershipMap) -> str:
    """Return the picture as a document of HTML; the same store gives the same text."""
    keys = keys_of(ownership)
    script = "\n" + _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_file("page.html")).substitute(
        name=_text(ownership.name),
        summary=_text(_summary(ownership)),
        style=_file("page.css"),
        digest=f"sha256-{digest}",
        legend="".join(_legend(ownership)),
        no_blobs="" if ownership.tree else " hidden",
        rows="".join(_rows(ownership, keys)),
        external=_external_key(ownership),
        errors=_errors(ownership),
        data=_data(ownership, keys),
        script=script.removeprefix("\n"),
    )


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _text(text: str) -> str:
    return escape(printable(text))


def _summary(ownership: OwnershipMap) -> str:
    info = ownership.info
    return (
        f"{format_size(info.size)} in {info.total_clusters} clusters of "
        f"{exact_size(info.cluster_size)}, {info.free_clusters} free, {info.blob_count} blobs"
    )


def _legend(ownership: OwnershipMap) -> Iterator[str]:
    for use, meaning in _USES.items():
        count = ownership.count_of(use)
        if count or use is not Use.UNKNOWN:
            yield f'<li><span class="key {use.value}"></span> {meaning}, {count} clusters</li>\n'


def _rows(ownership: OwnershipMap, keys: dict[BlobId, Key]) -> Iterator[str]:
    reader = Reader(ownership.blobs)
    inherited = inherited_clusters(ownership)
    size = ownership.info.cluster_size
    for number, (branch, following) in enumerate(zip_longest(ownership.tree, ownership.tree[1:])):
        blob = ownership.blobs[branch.blob_id]
        cells = strip_of(reader, branch.blob_id, blob.cluster_count, cell_count=_STRIP_CELLS)
        is_open = following is not None and following.depth > branch.depth
        yield (
            f'<tr aria-level="{branch.depth + 1}" aria-selected="false" '
            f'tabindex="{-1 if number else 0}"{_EXPANDED if is_open else ""}>'
            f"<td>{_name_cell(branch, blob, keys)}</td>"
            f'<td class="mono wide">{blob.blob_id:#x}</td>'
            f'<td class="wide">{kind_of(blob)}</td>'
            f'<td class="number wide">{format_size(blob.size)}</td>'
            f'<td class="number">{format_size(blob.allocated_clusters * size)}</td>'
            f'<td class="number">{format_size(inherited[branch.blob_id] * size)}</td>'
            f'<td><div class="strip" style="background:{_gradient(cells, keys)}"></div></td></tr>\n'
        )


def _name_cell(branch: Branch, blob: BlobInfo, keys: dict[BlobId, Key]) -> str:
    key = keys[branch.blob_id]
    return (
        f'<span class="name" style="--depth:{min(branch.depth, _INDENT_MAX)}">'
        '<span class="turn"></span>'
        f'<span class="key" style="background:{key.colour}" aria-hidden="true">{key.letter}</span>'
        f'<span class="text">{_text(_name(blob))}</span></span>'
    )


def _name(blob: BlobInfo) -> str:
    return f"{blob.blob_id:#x}" if blob.name is None else blob.name


def _gradient(cells: "Sequence[Cell[Source]]", keys: dict[BlobId, Key]) -> str:
    """Return the cells as a background, neighbours of one colour as one part."""
    parts, at = [], 0
    for colour, group in groupby(_colour(cell.owner, keys) for cell in cells):
        start, at = at, at + sum(1 for _cell in group)
        parts.append(f"{colour} {_percent(start, cells)} {_percent(at, cells)}")
    return f"linear-gradient(90deg,{','.join(parts)})" if parts else "none"


def _percent(count: int, cells: "Sequence[Cell[Source]]") -> str:
    return f"{100 * count / len(cells):.4g}%"


def _colour(source: Source, keys: dict[BlobId, Key]) -> str:
    return _SOURCE_COLOURS[source] if isinstance(source, str) else keys.get(source, OTHER).colour


def _external_key(ownership: OwnershipMap) -> str:
    if all(blob.external_snapshot is None for blob in ownership.blobs.values()):
        return ""
    key = '<span class="key metadata"></span>'
    return f'<ul class="legend soft"><li>{key} an external snapshot</li></ul>\n'


def _errors(ownership: OwnershipMap) -> str:
    if not ownership.unopened:
        return ""
    lines = "".join(
        f'<li>{_text(blob.name or "")} <span class="mono">{blob.blob_id:#x}</span> '
        f"{_text(blob.error.strerror)}</li>\n"
        for blob in ownership.unopened
        if blob.error is not None
    )
    title = "<h2>Blobs that cannot be opened</h2>"
    return f'<section>{title}\n<ul class="errors">\n{lines}</ul></section>\n'


def _data(ownership: OwnershipMap, keys: dict[BlobId, Key]) -> str:
    """Return the numbers for the script; nothing in them ends the element that holds them."""
    numbers = {branch.blob_id: number for number, branch in enumerate(ownership.tree)}
    runs: list[int] = []
    for run in ownership.runs:
        owner = run.owner
        number = _USE_NUMBERS[owner] if isinstance(owner, Use) else numbers[owner]
        runs += (run.count, number)
    fields = {
        "total": ownership.info.total_clusters,
        "uses": list(_USES.values()),
        "runs": runs,
        "blobs": [
            _blob_fields(branch, ownership.blobs[branch.blob_id], keys, numbers)
            for branch in ownership.tree
        ],
    }
    return json.dumps(fields, separators=(",", ":")).replace("<", "\\u003c")


def _blob_fields(
    branch: Branch, blob: BlobInfo, keys: dict[BlobId, Key], numbers: dict[BlobId, int]
) -> dict[str, object]:
    key = keys[branch.blob_id]
    return {
        "id": f"{blob.blob_id:#x}",
        "name": printable(_name(blob)),
        "kind": kind_of(blob),
        "letter": key.letter,
        "colour": key.colour,
        "depth": branch.depth,
        "parent": -1 if blob.parent is None else numbers.get(blob.parent, -1),
        "extents": [number for extent in blob.extents for number in extent],
    }
