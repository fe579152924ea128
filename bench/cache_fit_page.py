"""The table and the picture of docs/experiments/cache-fit.md, from the outcomes of cache_fit.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.page import PAGES, Table, update_page
from harness import spread
from partwise.cli.format import MIB

if TYPE_CHECKING:
    from cache_fit import Outcome

PAGE, PICTURE = PAGES / "cache-fit.md", PAGES / "cache-fit.svg"
SIZE_INCHES = (8.0, 4.8)


def tabulate(outcomes: Sequence[Outcome]) -> Table:
    """A row for each part and kind of pass."""
    headers = (
        "precision", "tokens", "part MiB", "parts", "resident us", "predicted us",
        "in its turn us", "predicted us", "gain", "predicted", "off by", "bound by",
    )  # fmt: skip
    rows = [
        (
            outcome.precision,
            outcome.tokens,
            outcome.part_bytes / MIB,
            outcome.num_parts,
            1e6 * spread(outcome.resident_s).median,
            1e6 * outcome.predicted_resident_s,
            1e6 * spread(outcome.chained_s).median,
            1e6 * outcome.predicted_chained_s,
            str(outcome.gain),
            outcome.predicted_gain,
            f"{outcome.error:+.0%}",
            outcome.bound_by,
        )
        for outcome in outcomes
    ]
    return Table(name="gains", title="Resident against in its turn", headers=headers, rows=rows)


def write_page(outcomes: Sequence[Outcome]) -> None:
    """Bring the page's table and picture up to date."""
    update_page(PAGE, [tabulate(outcomes)])
    draw(outcomes, PICTURE)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Gains over the size of the part: measured with their spread, and predicted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for index, precision in enumerate(dict.fromkeys(o.precision for o in outcomes)):
        color = f"C{index}"
        own = [o for o in outcomes if o.precision == precision and o.tokens == 1]
        sizes = [o.part_bytes / MIB for o in own]
        medians = [o.gain.median for o in own]
        spreads = [
            [m - o.gain.low for m, o in zip(medians, own, strict=True)],
            [o.gain.high - m for m, o in zip(medians, own, strict=True)],
        ]
        axes.errorbar(sizes, medians, spreads, color=color, marker="o", label=f"{precision}")
        axes.plot(
            sizes, [o.predicted_gain for o in own], color=color, linestyle=":",
            label=f"{precision}, predicted",
        )  # fmt: skip
        if prompts := [o for o in outcomes if o.precision == precision and o.tokens > 1]:
            axes.plot(
                [o.part_bytes / MIB for o in prompts], [o.gain.median for o in prompts],
                color=color, marker="x", linestyle="", label=f"{precision}, prompt",
            )  # fmt: skip
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    ticks = (2, 4, 8, 16, 32, 64)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("weights of the part, MiB")
    axes.set_ylabel("times as fast when it stays in cache")
    axes.legend(ncols=2)
    axes.set_title("What it is worth that a part stays in cache, one thread")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
