"""The picture of a plan as plain text, for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, zip_longest

from partwise.distributor.picture import PADDING, Band, Cell, Picture, shorten

ARROW = "▼ "
"""Before each stage but the first: activations come from the one above."""
MAX_FRAMED = 16
"""With more stages than these, those on one server have no border between them."""

Row = list[tuple[str, int]]
"""The text and the columns of each cell, in one line."""


def draw_text(picture: Picture) -> str:
    """The picture, a line of text for each row and each border."""
    rows = [row for i, band in enumerate(picture.bands) for row in _list_rows(band, i, picture)]
    is_dense = len(picture.bands) > MAX_FRAMED
    lines: list[str] = []
    above: list[int] = []
    for i, row in enumerate(rows):
        below = list(accumulate(columns + 1 for _, columns in row[0]))[:-1]
        if i == 0 or above or below or not is_dense:
            lines.append(_draw_border(picture.columns, above, below, "├┤" if i else "┌┐"))
        lines += (_draw_line(line) for line in row)
        above = below
    lines.append(_draw_border(picture.columns, above, [], "└┘"))
    return "\n".join(lines)


def _list_rows(band: Band, index: int, picture: Picture) -> Iterator[list[Row]]:
    """The lines of each row of cells; a stage's layers are named first."""
    arrow = ARROW if index else ""
    room = picture.columns - PADDING
    if len(band.rows) == len(band.rows[0]) == 1:
        cell = band.rows[0][0]
        start = f"{arrow}{cell.server} · {band.layers}"
        if len(start) <= room:
            yield [[(line, picture.columns)] for line in _wrap([start, *cell.words], room)]
            return
    yield [[(shorten(f"{arrow}{band.layers}", room), picture.columns)]]
    for row in band.rows:
        yield _list_lines(row)


def _list_lines(row: Sequence[Cell]) -> list[Row]:
    """The lines of cells side by side, all of as many lines as the one with most."""
    texts = [_wrap([cell.server, *cell.words], cell.columns - PADDING) for cell in row]
    return [
        [(text, cell.columns) for text, cell in zip(line, row, strict=True)]
        for line in zip_longest(*texts, fillvalue="")
    ]


def _wrap(words: Sequence[str], columns: int) -> list[str]:
    """The words in as few lines as hold them all; none is wider than ``columns``."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 3 + len(word) > columns:
            lines.append(word)
        else:
            lines[-1] += f" · {word}"
    return lines


def _draw_line(line: Row) -> str:
    return f"│{'│'.join(f' {text}'.ljust(columns) for text, columns in line)}│"


def _draw_border(columns: int, above: Sequence[int], below: Sequence[int], ends: str) -> str:
    """A border that joins the borders between the cells above it and below it."""
    joints = {(True, True): "┼", (True, False): "┴", (False, True): "┬"}
    middle = "".join(
        joints.get((column in above, column in below), "─") for column in range(1, columns + 1)
    )
    return f"{ends[0]}{middle}{ends[1]}"
