"""Brings the tables and the picture of docs/experiments/cache-fit.md up to date with the last run
of `cache_fit.py`, and of `cache_fit_cuda.py`.

    python bench/cache_fit_page.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cache_fit_cuda import read_cuda, tabulate_cuda
from cache_fit_outcome import Outcome, tabulate
from experiments.page import PAGES, Table, update_page
from harness import ROOT
from partwise.cli.format import MIB

RESULTS = ROOT / "bench" / "results" / "cache_fit.json"
PAGE, PICTURE = PAGES / "cache-fit.md", PAGES / "cache-fit.svg"
SIZE_INCHES = (8.0, 4.8)


def read_outcomes(document: dict[str, Any]) -> list[Outcome]:
    """Those of the last run."""
    return msgspec.convert(document["rounds"]["parts"], list[Outcome])


def list_tables(document: dict[str, Any]) -> list[Table]:
    """Those of the page, from the last results."""
    return [tabulate(read_outcomes(document)), tabulate_cuda(read_cuda(document))]


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


if __name__ == "__main__":
    last = json.loads(RESULTS.read_text())
    update_page(PAGE, list_tables(last))
    draw(read_outcomes(last), PICTURE)
