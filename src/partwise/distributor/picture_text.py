"""The picture of a plan as plain text, for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from partwise.distributor.picture import PADDING, Band, Cell, Picture, shorten

ARROW = "▼ "
"""Before each stage but the first: activations come from the one above."""
MAX_FRAMED = 16
"""With more stages than these, those on one server have no border between them."""

Row = list[tuple[str, int]]
"""The text and the columns of each cell."""


def draw_text(picture: Picture) -> str:
    """The picture, a line of text for each row and each border."""
    rows = [row for i, band in enumerate(picture.bands) for row in _list_rows(band, i, picture)]
    is_dense = len(picture.bands) > MAX_FRAMED
    lines: list[str] = []
    above: list[int] = []
    for i, row in enumerate(rows):
        below = list(accumulate(columns + 1 for _, columns in row))[:-1]
        if i == 0 or above or below or not is_dense:
            lines.append(_draw_border(picture.columns, above, below, "├┤" if i else "┌┐"))
        lines.append("│" + "│".join(f" {text}".ljust(columns) for text, columns in row) + "│")
        above = below
    lines.append(_draw_border(picture.columns, above, [], "└┘"))
    return "\n".join(lines)


def _list_rows(band: Band, index: int, picture: Picture) -> Iterator[Row]:
    """The (text, columns) of each cell, row by row; a stage's layers are named first."""
    arrow = ARROW if index else ""
    room = picture.columns - PADDING
    if len(band.rows) == len(band.rows[0]) == 1:
        cell = band.rows[0][0]
        start = f"{arrow}{cell.server} · {band.layers}"
        if len(start) <= room:
            yield [(_join(start, cell.words, room), picture.columns)]
            return
    yield [(shorten(f"{arrow}{band.layers}", room), picture.columns)]
    for row in band.rows:
        yield [(_label(cell), cell.columns) for cell in row]


def _label(cell: Cell) -> str:
    return _join(cell.server, cell.words, cell.columns - PADDING)


def _join(start: str, words: Sequence[str], columns: int) -> str:
    """``start`` and as many of the words after it as fit."""
    for word in words:
        if len(start) + 3 + len(word) > columns:
            break
        start += f" · {word}"
    return start


def _draw_border(columns: int, above: Sequence[int], below: Sequence[int], ends: str) -> str:
    """A border that joins the borders between the cells above it and below it."""
    joints = {(True, True): "┼", (True, False): "┴", (False, True): "┬"}
    middle = "".join(
        joints.get((column in above, column in below), "─") for column in range(1, columns + 1)
    )
    return f"{ends[0]}{middle}{ends[1]}"
