"""The picture on a terminal: letters, in colours where there are any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.text import Text

from blobstore import BlobId, BlobInfo
from blobstore.cli.output import printable
from blobstore.cli.picture.cells import (
    OTHER_COLOUR,
    Cell,
    Key,
    cells_of,
    clusters_per_cell,
    keys_of,
    strip_of,
)
from blobstore.cli.picture.ownership_map import (
    EXTERNAL,
    HOLE,
    Branch,
    OwnershipMap,
    Reader,
    Source,
    Use,
)
from blobstore.cli.rendering import STORES_OWN, kind_of
from blobstore.units import exact_size
from blobstore.volumes.identity import VOLUME_STORE_TYPE

_ROWS_MAX: Final = 16
_COLUMNS_MIN: Final = 16
_STRIP_MIN: Final = 8
_STRIP_MAX: Final = 32
_NAME_MAX: Final = 32

_USES: Final = {
    Use.METADATA: Key("#", OTHER_COLOUR),
    Use.FREE: Key(".", OTHER_COLOUR),
    Use.UNKNOWN: Key("?", OTHER_COLOUR),
}
_MEANINGS: Final = {
    Use.METADATA: "metadata",
    Use.FREE: "free",
    Use.UNKNOWN: "in use, by no blob that can be opened",
}
_SOURCES: Final = {HOLE: Key(".", OTHER_COLOUR), EXTERNAL: Key("~", OTHER_COLOUR)}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line, on a ground of its own colour or in it."""

    text: str
    colour: str = ""
    filled: bool = False


_Line = list[Span]


def render_plain(ownership: OwnershipMap, *, width: int) -> str:
    """Return the picture as lines of at most about `width` characters, without colours."""
    return "\n".join(
        "".join(span.text for span in line).rstrip() for line in _lines(ownership, width)
    )


def print_coloured(ownership: OwnershipMap, console: Console) -> None:
    """Print the picture to a terminal."""
    for line in _lines(ownership, console.width):
        console.print(Text.assemble(*map(_styled, line)), soft_wrap=True)


def _styled(span: Span) -> tuple[str, str]:
    if span.filled:
        return span.text, f"bold #101418 on {span.colour}"
    return span.text, span.colour


def _lines(ownership: OwnershipMap, width: int) -> Iterator[_Line]:
    keys = keys_of(ownership)
    yield from _grid(ownership, keys, width)
    yield []
    yield from _legend(ownership)
    if ownership.tree:
        yield []
        yield from _tree(ownership, keys, width)
    for blob in ownership.unopened:
        assert blob.error is not None
        name = printable(blob.name or "-")[:_NAME_MAX]
        yield [Span(f"!  {blob.blob_id:#x}  {name}  error: {printable(blob.error.strerror)}")]


def _grid(ownership: OwnershipMap, keys: dict[BlobId, Key], width: int) -> Iterator[_Line]:
    total = ownership.info.total_clusters
    label = len(str(total))
    columns = max(_COLUMNS_MIN, 1 << (max(1, width - label - 2).bit_length() - 1))
    per_cell = clusters_per_cell(total, columns * _ROWS_MAX)
    yield [Span(_title(ownership, per_cell))]
    yield []
    cells = cells_of(ownership.runs, per_cell=per_cell)
    for start in range(0, len(cells), columns):
        row = [_span_of(_key_of(cell, keys), cell) for cell in cells[start : start + columns]]
        yield [Span(f"{start * per_cell:{label}}  "), *row]


def _title(ownership: OwnershipMap, per_cell: int) -> str:
    info = ownership.info
    scale = (
        "one" if per_cell == 1 else f"{per_cell} of them, a small one if not all are that blob's"
    )
    size = exact_size(info.cluster_size)
    name = printable(ownership.name)
    return f"{name}: {info.total_clusters} clusters of {size}; a letter is {scale}"


def _key_of(cell: "Cell[BlobId | Use]", keys: dict[BlobId, Key]) -> Key:
    return _USES[cell.owner] if isinstance(cell.owner, Use) else keys[cell.owner]


def _span_of(key: Key, cell: "Cell[BlobId | Use] | Cell[Source]") -> Span:
    if key.letter.isalpha() or key.letter == "*":
        return Span(key.letter if cell.whole else key.letter.lower(), key.colour, cell.whole)
    return Span(key.letter, key.colour)


def _legend(ownership: OwnershipMap) -> Iterator[_Line]:
    for use, meaning in _MEANINGS.items():
        count = ownership.count_of(use)
        if count or use is not Use.UNKNOWN:
            key = _USES[use]
            clusters = "1 cluster" if count == 1 else f"{count} clusters"
            yield [Span(key.letter, key.colour), Span(f"  {meaning}: {clusters}")]


def _tree(ownership: OwnershipMap, keys: dict[BlobId, Key], width: int) -> Iterator[_Line]:
    info = ownership.info
    own = info.super_blob if info.bstype == VOLUME_STORE_TYPE else None
    rows = [
        _cells_of_row(branch, ownership.blobs[branch.blob_id], is_own=branch.blob_id == own)
        for branch in ownership.tree
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = width - sum(widths) - 2 * len(widths) - 5
    strip = min(_STRIP_MAX, max(_STRIP_MIN, left))
    reader = Reader(ownership.blobs)
    for branch, row in zip(ownership.tree, rows, strict=True):
        blob = ownership.blobs[branch.blob_id]
        key = keys[branch.blob_id]
        text = "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True))
        cells = strip_of(reader, branch.blob_id, blob.cluster_count, cell_count=strip)
        shown = [_span_of(_source_key(cell, keys), cell) for cell in cells]
        yield [Span(key.letter, key.colour, True), Span(f"  {text}  ["), *shown, Span("]")]


def _cells_of_row(branch: Branch, blob: BlobInfo, *, is_own: bool) -> Sequence[str]:
    external = " (external)" if blob.external_snapshot is not None else ""
    return (
        guides(branch.lasts) + printable(blob.name or "-")[:_NAME_MAX],
        f"{blob.blob_id:#x}",
        STORES_OWN if is_own else kind_of(blob) + external,
        f"{blob.allocated_clusters} of {blob.cluster_count}",
    )


def guides(lasts: Sequence[bool]) -> str:
    """Return the lines that lead to a blob from its parent."""
    if not lasts:
        return ""
    return "".join("   " if last else "│  " for last in lasts[:-1]) + (
        "└─ " if lasts[-1] else "├─ "
    )


def _source_key(cell: "Cell[Source]", keys: dict[BlobId, Key]) -> Key:
    return _SOURCES[cell.owner] if isinstance(cell.owner, str) else keys[cell.owner]
