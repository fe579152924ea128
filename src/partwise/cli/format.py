"""Plain text for people: sizes and tables. No colour, no terminal control, no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Cell = str | int | float | None
"""Whole numbers get separators, fractions two decimals, None stays empty."""

NUMBER = re.compile(r"[-+]?\d[\d,.]*%?")


def format_bytes(num_bytes: int) -> str:
    """A size in the largest unit that leaves a whole part, e.g. ``1.50 GiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.2f} {name}"
    return f"{num_bytes} bytes"


def format_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table, one line a row; the unit of a column stands in its header.

    Columns that hold only numbers are aligned to the right.
    """
    texts = [[format_cell(cell) for cell in row] for row in rows]
    columns = list(zip(headers, *texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [is_numeric(column[1:]) for column in columns]
    rule = ["-" * width for width in widths]
    lines = (
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in (headers, rule, *texts)
    )
    return "\n".join(lines)


def tabulate(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table without the columns of which every cell is None."""
    kept = [i for i in range(len(headers)) if any(row[i] is not None for row in rows)]
    return format_table([headers[i] for i in kept], [[row[i] for i in kept] for row in rows])


def format_json(document: Mapping[str, Any]) -> str:
    """One JSON document.

    Raises:
        ValueError: it holds NaN or infinity, which JSON does not have: a bug of ours.
    """
    return json.dumps(document, indent=1, allow_nan=False)


def format_cell(cell: Cell) -> str:
    """One cell as text."""
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return cell


def is_numeric(texts: Sequence[str]) -> bool:
    """Whether some cell is a number and all others are too, or empty."""
    return any(texts) and all(not text or NUMBER.fullmatch(text) for text in texts)
