"""The pictures of docs/experiments/latency.md, as SVG. The tables hold their figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.two_servers.cases import Condition, Layout
from experiments.two_servers.outcome import Outcome, Series, group
from experiments.two_servers.tables import name_series, name_table

COLOURS = {Layout.ONE: "#888888", Layout.LAYERS: "#c1440e", Layout.NEURONS: "#1f6fb2"}
PANEL_INCHES, HEIGHT_INCHES = 2.3, 3.4
LEFT_INCHES = 0.6


def draw(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """A picture for each series, the same bytes for the same figures."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    # Without a fixed salt and date each run writes other bytes.
    with mpl.rc_context({"svg.hashsalt": "partwise", "svg.fonttype": "none"}):
        for series in group(outcomes):
            _draw_series(folder / f"latency-{name_table(series)}.svg", series)


def _draw_series(path: Path, series: Series) -> None:
    """Time a token over the delay, a panel for each bandwidth: measured as lines with their
    spread, predicted dotted."""
    from matplotlib.figure import Figure

    count = len(series.bandwidths)
    size = (LEFT_INCHES + PANEL_INCHES * count, HEIGHT_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, mbit_per_s in zip(panels, series.bandwidths, strict=True):
        conditions = [c for c in series.conditions if c.mbit_per_s == mbit_per_s]
        for layout in Layout:
            _draw_layout(axes, series, layout, conditions)
        axes.set_title(Condition(mbit_per_s=mbit_per_s).bandwidth, fontsize=10)
        axes.set_xlabel("one-way delay, ms")
        axes.set_yscale("log")
        delays = [condition.delay_ms for condition in conditions]
        axes.set_xscale("symlog", linthresh=min(d for d in delays if d), linscale=0.5)
        axes.set_xticks(delays, [f"{delay:g}" for delay in delays], fontsize=8)
        axes.minorticks_off()
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms a token")
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{name_series(series)} (dotted: predicted)", fontsize=10)
    figure.savefig(path, metadata={"Date": None})


def _draw_layout(
    axes: Any, series: Series, layout: Layout, conditions: Sequence[Condition]
) -> None:
    delays = [condition.delay_ms for condition in conditions]
    found = [series.find(layout, condition) for condition in conditions]
    medians = [1e3 * o.measured.median for o in found]
    spreads = [
        [1e3 * (o.measured.median - o.measured.low) for o in found],
        [1e3 * (o.measured.high - o.measured.median) for o in found],
    ]
    colour = COLOURS[layout]
    axes.errorbar(
        delays, medians, spreads, color=colour, marker="o", markersize=3, linewidth=1.4,
        label=layout,
    )  # fmt: skip
    predicted = [1e3 * outcome.predicted_s for outcome in found]
    axes.plot(delays, predicted, color=colour, linestyle=":", linewidth=1.4)
