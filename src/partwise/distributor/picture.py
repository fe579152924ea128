"""The picture of a plan, before it is drawn: stages from top to bottom, members side by side.

Widths are in columns of text. `picture_text.py` and `picture_svg.py` draw it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from partwise.distributor.cost import Prediction
from partwise.distributor.ownership import Ownership, measure_ownership
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.pricing import PartCost
from partwise.distributor.shares import round_shares
from partwise.distributor.slowdown import format_ms, name_bound
from partwise.model.description import Model

MAX_COLUMNS = 100
PADDING = 2
"""Columns of a cell beside its text: one on each side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A member of a stage. ``columns`` hold its server or the longest of its ``words`` (its
    share, its time), padding included, but not the borders beside it."""

    server: str
    words: tuple[str, ...]
    bound_by: str
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A stage: its layers, what reaches it (``hop``, empty where nothing is known), and its
    members in rows, which are as wide as the picture, borders between cells included."""

    layers: str
    hop: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """All stages of a plan. ``columns`` are those inside the outer borders."""

    columns: int
    bands: tuple[Band, ...]


def arrange(plan: Plan, model: Model, prediction: Prediction | None = None) -> Picture:
    """The picture of a verified plan, `MAX_COLUMNS` wide with its outer borders.

    Cells are as wide as their members' shares of the stage's weights, as far as their text
    leaves a choice; members that do not fit side by side continue in the next row.
    """
    inner = MAX_COLUMNS - 2
    costs = {cost.part: cost for cost in prediction.parts} if prediction else {}
    bands = tuple(_make_band(plan, model, stage, costs, inner) for stage in plan.stages)
    return Picture(columns=inner, bands=bands)


def _make_band(
    plan: Plan, model: Model, stage: Stage, costs: Mapping[str, PartCost], columns: int
) -> Band:
    names = [member.part for member in stage.members]
    owned = [measure_ownership(plan, model, name) for name in names]
    cells = [
        _make_cell(
            plan.part(name).server,
            one if len(names) > 1 else None,
            costs.get(name),
            columns - PADDING,
        )
        for name, one in zip(names, owned, strict=True)
    ]
    received = [costs[name] for name in names if name in costs and costs[name].hop_bytes]
    slowest = max(received, key=lambda cost: cost.hop_s, default=None)
    hop = slowest and f"{slowest.hop_bytes:,} bytes, {format_ms(slowest.hop_s)} ms"
    return Band(
        layers=model.describe_range(stage.start, stage.stop),
        hop=shorten(hop or "", columns // 2 - PADDING),  # beside the arrow in the middle
        rows=_fill_rows(cells, [one.of_weights for one in owned], columns),
    )


def _make_cell(server: str, owned: Ownership | None, cost: PartCost | None, room: int) -> Cell:
    """The narrowest cell with a member's share of its stage, its time for a pass, and the kinds
    of neurons that it has where it lacks some, as far as they are known; none of them is longer
    than ``room``."""
    words = []
    if owned is not None:
        words.append(f"{100 * owned.of_weights:.0f} %")
    if cost is not None:
        words.append(f"{format_ms(cost.busy_s)} ms")
    if owned is not None:
        kinds = [kind for kind, share in owned.by_kind.items() if share]
        if len(kinds) < len(owned.by_kind):
            words.append(" + ".join(kinds) or "no neurons")
    server, *words = (shorten(word, room) for word in (server, *words))
    return Cell(
        server=server,
        words=tuple(words),
        bound_by="" if cost is None else name_bound(cost),
        columns=max(len(server), *map(len, words), 0) + PADDING,
    )


def _fill_rows(
    cells: Sequence[Cell], shares: Sequence[float], columns: int
) -> tuple[tuple[Cell, ...], ...]:
    """The cells, as narrow as they can be, widened by share until they fill rows."""
    minimums = [cell.columns for cell in cells]
    rows = []
    for start, stop in wrap(minimums, columns):
        room = columns - (stop - start - 1)
        widths = share_columns(room, minimums[start:stop], shares[start:stop])
        rows.append(
            tuple(
                replace(cell, columns=width)
                for cell, width in zip(cells[start:stop], widths, strict=True)
            )
        )
    return tuple(rows)


def wrap(minimums: Sequence[int], columns: int) -> list[tuple[int, int]]:
    """Bounds (start, stop) of as few rows as hold cells of these widths, with a border between
    two, and as evenly filled as that allows. No cell is wider than ``columns``."""
    count = len(minimums)
    for num_rows in range(1, count + 1):
        bounds = [count * row // num_rows for row in range(num_rows + 1)]
        rows = list(pairwise(bounds))
        if all(sum(minimums[a:b]) + (b - a - 1) <= columns for a, b in rows):
            return rows
    raise AssertionError("a cell is wider than the picture")


def share_columns(columns: int, minimums: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Widths that add up to ``columns``: by share, but none below its minimum."""
    free = list(range(len(shares)))
    widths = list(minimums)
    while free:
        left = columns - sum(minimums[i] for i in range(len(shares)) if i not in free)
        weights = [max(shares[i], 1e-6) for i in free]
        wide = [
            i for i, w in zip(free, weights, strict=True) if left * w >= minimums[i] * sum(weights)
        ]
        if len(wide) == len(free):
            for i, width in zip(free, round_shares(left, weights), strict=True):
                widths[i] = width
            return widths
        free = wide
    # Not reached while the minimums fit: what they leave makes some cell wide enough.
    return widths


def shorten(text: str, columns: int) -> str:
    """``text``, with its middle left out where it is too long."""
    if len(text) <= columns:
        return text
    head = (columns - 1) // 2
    return f"{text[:head]}…{text[len(text) - (columns - 1 - head) :]}"
