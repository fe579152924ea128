"""The picture of a plan as SVG, for pages with a light or a dark background.

Text is monospaced and its cells are measured in characters, so that no label leaves its cell.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from partwise.distributor.picture import Band, Cell, Picture

COLUMN_PX, LINE_PX = 8, 18
"""At a font size of 13 px a monospaced character is at most 8 px wide."""
MARGIN_PX, HOP_PX, CELL_PAD_PX = 16, 30, 8

# Text on each fill has a contrast of at least 7 (WCAG AAA), computed from these values.
STYLE = """
text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328; }
.page { fill: #ffffff; }
.name { font-weight: 600; }
.faint { fill: #424a53; }
.hop { stroke: #424a53; fill: none; }
.tip { fill: #424a53; }
rect.cell { fill: #eef1f4; stroke: #8c959f; }
rect.bandwidth { fill: #d8ebff; stroke: #0969da; }
rect.compute { fill: #d9f3e0; stroke: #1a7f37; }
rect.overhead { fill: #ffe9c9; stroke: #bc4c00; }
rect.exchange { fill: #f1e3ff; stroke: #8250df; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f3f6; }
.page { fill: #0d1117; }
.faint { fill: #c3cad2; }
.hop { stroke: #c3cad2; }
.tip { fill: #c3cad2; }
rect.cell { fill: #262c36; stroke: #7d8590; }
rect.bandwidth { fill: #0d2f55; stroke: #4493f8; }
rect.compute { fill: #113a1e; stroke: #3fb950; }
rect.overhead { fill: #4a2a08; stroke: #f0883e; }
rect.exchange { fill: #35205c; stroke: #ab7df8; }
}
"""


def draw_svg(picture: Picture, title: str, notes: Sequence[str] = ()) -> str:
    """The picture as an SVG document, with a title above it and lines of text below."""
    page = _Page(picture.columns)
    page.add_text([title], "name")
    for i, band in enumerate(picture.bands):
        page.add_band(band, is_first=i == 0)
    page.y_px += LINE_PX
    bounds = {cell.bound_by for band in picture.bands for row in band.rows for cell in row}
    for bound in sorted(bounds - {""}):
        page.add_key(bound)
    page.add_text(notes, "faint")
    return page.finish(title)


class _Page:
    """The document as it grows from top to bottom: what was drawn, down to ``y_px``."""

    def __init__(self, columns: int) -> None:
        self.y_px = MARGIN_PX
        self._columns = columns
        self._shapes: list[str] = []

    def add_text(self, texts: Iterable[str], kind: str) -> None:
        """Add texts, each in as many lines as it takes."""
        for line in (line for text in texts for line in textwrap.wrap(text, self._columns)):
            self._shapes.append(_text(0, self.y_px, line, kind))
            self.y_px += LINE_PX

    def add_band(self, band: Band, *, is_first: bool) -> None:
        """Add a stage, and what reaches it from the one above."""
        if not is_first:
            self._shapes.append(_draw_hop(self._columns, self.y_px, band.hop))
        self.y_px += LINE_PX // 2 if is_first else HOP_PX
        self._shapes += _draw_band(band, self.y_px)
        self.y_px += _height_px(band)

    def add_key(self, bound: str) -> None:
        """Add what a colour means."""
        self._shapes.append(_rect(0, self.y_px + 3, 12, 12, bound))
        self._shapes.append(_text(2, self.y_px, f" bound by {bound}", "faint"))
        self.y_px += LINE_PX

    def finish(self, title: str) -> str:
        """The document."""
        width_px = 2 * MARGIN_PX + self._columns * COLUMN_PX
        height_px = self.y_px + MARGIN_PX
        size = f'width="{width_px}" height="{height_px}"'
        view = f'viewBox="0 0 {width_px} {height_px}" role="img" aria-label={quoteattr(title)}'
        lines = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view}>',
            f"<style>{STYLE}</style>",
            f'<rect class="page" {size}/>',
            *self._shapes,
            "</svg>\n",
        )
        return "\n".join(lines)


def _draw_band(band: Band, y_px: int) -> Iterator[str]:
    yield _text(0, y_px, band.layers, "faint")
    y_px += LINE_PX + 2
    for row in band.rows:
        column = 0
        for cell in row:
            yield from _draw_cell(cell, column, y_px, _row_px(row))
            column += cell.columns + 1
        y_px += _row_px(row) + CELL_PAD_PX


def _draw_cell(cell: Cell, column: int, y_px: int, height_px: int) -> Iterable[str]:
    lines = [
        _text(column + 1, y_px + CELL_PAD_PX // 2 + i * LINE_PX, word, "faint" if i else "name")
        for i, word in enumerate((cell.server, *cell.words))
    ]
    width_px = cell.columns * COLUMN_PX
    tip = f"<title>{escape(', '.join((cell.server, *cell.words)))}</title>"
    box = _rect(column * COLUMN_PX, y_px, width_px, height_px, cell.bound_by)
    return ("<g>", tip, box, *lines, "</g>")


def _draw_hop(columns: int, y_px: int, label: str) -> str:
    """An arrow down in the middle of the picture, with what it carries beside it."""
    x_px, top_px = MARGIN_PX + columns * COLUMN_PX // 2, y_px + 4
    end_px = y_px + HOP_PX - 6
    shaft = f'<path class="hop" d="M{x_px} {top_px}V{end_px - 5}"/>'
    tip = f'<path class="tip" d="M{x_px - 5} {end_px - 6}h10l-5 6z"/>'
    return shaft + tip + _text(columns // 2 + 2, y_px + 4, label, "faint")


def _height_px(band: Band) -> int:
    return LINE_PX + 2 + sum(_row_px(row) + CELL_PAD_PX for row in band.rows) - CELL_PAD_PX


def _row_px(row: Sequence[Cell]) -> int:
    return max(1 + len(cell.words) for cell in row) * LINE_PX + CELL_PAD_PX


def _rect(x_px: int, y_px: int, width_px: int, height_px: int, kind: str) -> str:
    return (
        f'<rect class="cell {kind}" x="{MARGIN_PX + x_px}" y="{y_px}" width="{width_px}"'
        f' height="{height_px}" rx="3"/>'
    )


def _text(column: int, y_px: int, words: str, kind: str) -> str:
    """Text whose line begins at ``y_px``."""
    place = f'x="{MARGIN_PX + column * COLUMN_PX}" y="{y_px + 13}"'
    return f'<text class="{kind}" {place} xml:space="preserve">{escape(words)}</text>'
