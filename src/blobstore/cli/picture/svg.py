"""The picture as SVG: the same store gives the same bytes."""

from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from blobstore import BlobId, BlobInfo
from blobstore.cli.output import printable
from blobstore.cli.picture.cells import (
    OTHER,
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
from blobstore.cli.rendering import kind_of
from blobstore.units import exact_size

_WIDTH: Final = 960
_MARGIN: Final = 36
_LABEL_WIDTH: Final = 56
_GRID_WIDTH: Final = _WIDTH - 2 * _MARGIN - _LABEL_WIDTH
_FEW_COLUMNS: Final = 32
_MANY_COLUMNS: Final = 64
_ROWS_MAX: Final = 32
_LETTERED_MIN: Final = 20  # cells of this many units have room for a letter

_ROW_HEIGHT: Final = 30
_INDENT: Final = 22
_INDENT_MAX: Final = 5
_ID_LEFT: Final = 264
_KIND_LEFT: Final = 368
_KIND_LENGTH_MAX: Final = 21
_STRIP_LEFT: Final = 600
_STRIP_CELLS: Final = 24
_STRIP_PITCH: Final = 13
_STRIP_SIZE: Final = 11
_LETTER_WIDTH: Final = 8.5
_BLOBS_MAX: Final = 64

_USE_CLASSES: Final = {Use.METADATA: "meta", Use.FREE: "free", Use.UNKNOWN: "unknown"}
_SOURCE_CLASSES: Final = {HOLE: "hole", EXTERNAL: "external"}
_CELLS_WITH_BORDER: Final = ("free", "hole", "external")

_STYLE: Final = """
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
.mono { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
.card { fill: #ffffff; stroke: #d5dae1; }
.strong { fill: #1f2328; }
.soft { fill: #656d76; }
.letter { fill: #ffffff; font-weight: 600; }
.meta, .unknown { fill: #6e7781; }
.free, .hole { fill: #f3f5f8; stroke: #d5dae1; }
.external { fill: #ffffff; stroke: #6e7781; stroke-dasharray: 2 2; }
.branch { fill: none; stroke: #afb8c1; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #30363d; }
  .strong { fill: #e6edf3; }
  .soft { fill: #9198a1; }
  .free, .hole { fill: #161b22; stroke: #30363d; }
  .external { fill: #0d1117; stroke: #9198a1; }
  .branch { stroke: #484f58; }
}
"""


@dataclass(slots=True)
class _Drawing:
    """What is drawn so far, and how far down it reaches."""

    y: int = _MARGIN
    parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, text: str, kind: str, *, size: int = 13, to: str = "start"
    ) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" font-size="{size}" text-anchor="{to}">'
            f"{escape(text)}</text>"
        )

    def cell(
        self, x: float, y: float, size: float, look: str, *, whole: bool = True, tip: str = ""
    ) -> None:
        """Draw a square in a class's look or in a colour; pale, if it is only partly so."""
        kind = f'fill="{look}"' if look.startswith("#") else f'class="{look}"'
        inset = 0.5 if look in _CELLS_WITH_BORDER else 0.0
        pale = "" if whole else ' fill-opacity="0.55"'
        side = size - 2 * inset
        title = f"><title>{escape(tip)}</title></rect>" if tip else "/>"
        self.parts.append(
            f'<rect x="{x + inset:g}" y="{y + inset:g}" width="{side:g}" height="{side:g}" '
            f'rx="{2 if size < _LETTERED_MIN else 4}" {kind}{pale}{title}'
        )

    def square(self, x: float, y: float, key: Key, size: float) -> None:
        """Draw a blob's key: its letter on its colour."""
        self.cell(x, y, size, key.colour)
        self.text(x + size / 2, y + size / 2 + 4, key.letter, "letter", size=11, to="middle")


def render_svg(ownership: OwnershipMap) -> str:
    """Return the picture as an SVG document."""
    drawing = _Drawing()
    keys = keys_of(ownership)
    per_cell, columns = _scale(ownership.info.total_clusters)
    _draw_head(drawing, ownership, per_cell)
    _draw_grid(drawing, ownership, keys, per_cell, columns)
    _draw_legend(drawing, ownership, per_cell)
    _draw_blobs(drawing, ownership, keys)
    height = drawing.y + _MARGIN - 12
    name = escape(printable(ownership.name))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="title">\n'
        f'<title id="title">The clusters of {name}, and the blobs that own them</title>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="12"/>'
    )
    return "\n".join([head, *drawing.parts, "</svg>\n"])


def _scale(total: int) -> tuple[int, int]:
    """Return how many clusters a cell stands for, and how many cells a row has."""
    columns = _FEW_COLUMNS if total <= _FEW_COLUMNS * _FEW_COLUMNS // 2 else _MANY_COLUMNS
    return clusters_per_cell(total, columns * _ROWS_MAX), columns


def _draw_head(drawing: _Drawing, ownership: OwnershipMap, per_cell: int) -> None:
    info = ownership.info
    scale = "a square is a cluster" if per_cell == 1 else f"a square is {per_cell} clusters"
    drawing.y += 12
    drawing.text(_MARGIN, drawing.y, printable(ownership.name), "strong", size=20)
    drawing.text(
        _WIDTH - _MARGIN,
        drawing.y,
        f"{info.total_clusters} clusters of {exact_size(info.cluster_size)}, "
        f"{info.free_clusters} free · {scale}",
        "soft",
        to="end",
    )
    drawing.y += 22


def _draw_grid(
    drawing: _Drawing, ownership: OwnershipMap, keys: dict[BlobId, Key], per_cell: int, columns: int
) -> None:
    pitch = _GRID_WIDTH // columns
    size = pitch - (3 if pitch >= _LETTERED_MIN else 2)
    cells = cells_of(ownership.runs, per_cell=per_cell)
    before: object = None
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        x, y = _MARGIN + _LABEL_WIDTH + column * pitch, drawing.y + row * pitch
        if column == 0:
            middle = y + size / 2 + 4
            drawing.text(x - 12, middle, str(number * per_cell), "soft mono", size=11, to="end")
        look = _look_of(cell, keys)
        drawing.cell(
            x, y, size, look, whole=cell.whole, tip=_tip(number * per_cell, cell, ownership)
        )
        is_first = column == 0 or cell.owner != before
        if size >= _LETTERED_MIN and is_first and not isinstance(cell.owner, Use):
            letter = keys[cell.owner].letter
            drawing.text(x + size / 2, y + size / 2 + 4, letter, "letter", size=11, to="middle")
        before = cell.owner
    drawing.y += -(-len(cells) // columns) * pitch


def _look_of(cell: "Cell[BlobId | Use]", keys: dict[BlobId, Key]) -> str:
    if isinstance(cell.owner, Use):
        return _USE_CLASSES[cell.owner]
    return keys[cell.owner].colour


def _tip(first: int, cell: "Cell[BlobId | Use]", ownership: OwnershipMap) -> str:
    if isinstance(cell.owner, Use):
        return f"{first}: {cell.owner.value}"
    return f"{first}: {_shown_name(ownership.blobs[cell.owner])}"


def _draw_legend(drawing: _Drawing, ownership: OwnershipMap, per_cell: int) -> None:
    x = float(_MARGIN + _LABEL_WIDTH)
    drawing.y += 10
    for use, meaning in (
        (Use.METADATA, "metadata"),
        (Use.FREE, "free"),
        (Use.UNKNOWN, "in use, by no blob that can be opened"),
    ):
        count = ownership.count_of(use)
        if use is Use.UNKNOWN and not count:
            continue
        drawing.cell(x, drawing.y, 14, _USE_CLASSES[use])
        text = f"{meaning}, {count}"
        drawing.text(x + 22, drawing.y + 12, text, "soft")
        x += 22 + 8 * len(text) + 20
    if per_cell > 1:
        drawing.text(x, drawing.y + 12, "pale: other clusters, too", "soft")
    drawing.y += 14


def _draw_blobs(drawing: _Drawing, ownership: OwnershipMap, keys: dict[BlobId, Key]) -> None:
    if not ownership.tree:
        return
    drawing.y += 44
    drawing.text(_MARGIN, drawing.y, "Blobs", "strong", size=16)
    drawing.text(_STRIP_LEFT - 16, drawing.y, "own clusters", "soft", to="end")
    drawing.text(_STRIP_LEFT, drawing.y, "what each shows, coloured by its holder", "soft")
    drawing.y += 14
    reader = Reader(ownership.blobs)
    places: dict[BlobId, tuple[float, float]] = {}
    for branch in ownership.tree[:_BLOBS_MAX]:
        _draw_branch(drawing, branch, ownership.blobs[branch.blob_id], places)
        _draw_blob(drawing, branch, ownership.blobs[branch.blob_id], keys)
        _draw_strip(drawing, reader, ownership.blobs[branch.blob_id], keys)
        drawing.y += _ROW_HEIGHT
    if any(blob.external_snapshot is not None for blob in ownership.blobs.values()):
        y = drawing.y + 8
        drawing.cell(_STRIP_LEFT, y, _STRIP_SIZE, "external")
        drawing.text(_STRIP_LEFT + 20, y + 10, "an external snapshot", "soft")
        drawing.y += _ROW_HEIGHT
    left_out = len(ownership.tree) - _BLOBS_MAX
    if left_out > 0:
        drawing.text(_MARGIN, drawing.y + 20, f"and {left_out} more", "soft")
        drawing.y += _ROW_HEIGHT


def _left_of(branch: Branch) -> int:
    return _MARGIN + _INDENT * min(branch.depth, _INDENT_MAX)


def _draw_branch(
    drawing: _Drawing, branch: Branch, blob: BlobInfo, places: dict[BlobId, tuple[float, float]]
) -> None:
    """Draw the line from the parent, and note where this one's clones begin."""
    x, y = _left_of(branch), drawing.y + _ROW_HEIGHT / 2
    if blob.parent in places:
        from_x, from_y = places[blob.parent]
        turn = f"V{y - 6:g}q0 6 6 6H{x - 3:g}" if from_x < x else f"V{y - 12:g}"
        path = f"M{from_x:g} {from_y:g}{turn}"
        drawing.parts.append(f'<path class="branch" d="{path}"/>')
    places[blob.blob_id] = (x + 10, y + 12)


def _draw_blob(drawing: _Drawing, branch: Branch, blob: BlobInfo, keys: dict[BlobId, Key]) -> None:
    x, base = _left_of(branch), drawing.y + _ROW_HEIGHT / 2 + 5
    drawing.square(x, drawing.y + (_ROW_HEIGHT - 20) / 2, keys[blob.blob_id], 20)
    room = int((_ID_LEFT - x - 34) / _LETTER_WIDTH)
    drawing.text(x + 30, base, _cut(_shown_name(blob), room), "strong", size=14)
    drawing.text(_ID_LEFT, base, f"{blob.blob_id:#x}", "soft mono", size=12)
    drawing.text(_KIND_LEFT, base, _cut(kind_of(blob), _KIND_LENGTH_MAX), "soft")
    owned = f"{blob.allocated_clusters} of {blob.cluster_count}"
    drawing.text(_STRIP_LEFT - 16, base, owned, "soft", to="end")


def _draw_strip(drawing: _Drawing, reader: Reader, blob: BlobInfo, keys: dict[BlobId, Key]) -> None:
    y = drawing.y + (_ROW_HEIGHT - _STRIP_SIZE) / 2
    cells = strip_of(reader, blob.blob_id, blob.cluster_count, cell_count=_STRIP_CELLS)
    for number, cell in enumerate(cells):
        x = _STRIP_LEFT + number * _STRIP_PITCH
        drawing.cell(x, y, _STRIP_SIZE, _source_look(cell.owner, keys), whole=cell.whole)


def _source_look(source: Source, keys: dict[BlobId, Key]) -> str:
    if isinstance(source, str):
        return _SOURCE_CLASSES[source]
    return keys.get(source, OTHER).colour


def _shown_name(blob: BlobInfo) -> str:
    name = blob.name
    return f"{blob.blob_id:#x}" if name is None else printable(name)


def _cut(text: str, length_max: int) -> str:
    return text if len(text) <= length_max else f"{text[: length_max - 1]}…"
