"""A page of docs/experiments/ whose tables are those of the last run: prose stays, tables change.

A table stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import ROOT
from partwise.cli.format import Cell, format_cell, format_table, is_numeric

PAGES = ROOT / "docs" / "experiments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of a page: its name there, its title, headers and rows."""

    name: str
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def render_text(self) -> str:
        """For a terminal."""
        return f"{self.title}\n\n{format_table(self.headers, self.rows)}"

    def render_markdown(self) -> str:
        """For the page."""
        texts = [[format_cell(cell) for cell in row] for row in self.rows]
        columns = zip(*texts, strict=True)
        rule = ["--:" if is_numeric(column) else "---" for column in columns]
        lines = (f"| {' | '.join(line)} |" for line in (self.headers, rule, *texts))
        return "\n".join((f"**{self.title}**", "", *lines))


def round_figure(value: float) -> str:
    """Three significant digits, which is more than a prediction is good for."""
    if value == 0:
        return "0"
    num_decimals = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, num_decimals)
    return f"{rounded:,.{max(0, num_decimals)}f}"


def find_names(text: str) -> list[str]:
    """The names of the tables on a page, in their order."""
    return re.findall(r"^<!-- table (\S+) -->$", text, re.MULTILINE)


def fill_page(text: str, tables: Sequence[Table]) -> str:
    """The page with each of its tables replaced by the one of that name.

    Raises:
        ValueError: the page has a table too many or too few.
    """
    by_name = {table.name: table for table in tables}
    names = find_names(text)
    if sorted(names) != sorted(by_name):
        wrong = sorted(set(names) ^ set(by_name)) or names
        raise ValueError(f"the page and the run do not have the same tables: see {wrong[0]}")
    for name, table in by_name.items():
        start, end = f"<!-- table {name} -->\n", f"<!-- end {name} -->\n"
        before, rest = text.split(start)
        after = rest[rest.index(end) :]
        text = f"{before}{start}{table.render_markdown()}\n{after}"
    return text


def update_page(path: Path, tables: Sequence[Table]) -> None:
    """`fill_page` in place."""
    path.write_text(fill_page(path.read_text(), tables))
