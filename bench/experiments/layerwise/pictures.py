"""Two pictures of the page, as SVG. The tables hold their figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiments.layerwise.memory import measure_step
from experiments.layerwise.speed import BASELINE, LAYER_WISE, Comparison
from experiments.layerwise.world import CLAIMS, MB, PRESETS, STEPS, describe_gated

INK, GREY = "#222222", "#888888"
COLOURS = {
    LAYER_WISE: "#c1440e",
    BASELINE: "#1f6fb2",
    "16 copies": "#5a8f3c",
    "one card": GREY,
}
PARTS = {
    "weight_bytes": ("weights", "#8fb8dc"),
    "kv_bytes": ("KV cache", "#e0a030"),
    "activation_bytes": ("activations", "#5a8f3c"),
    "buffer_bytes": ("buffers", "#9c6bb0"),
}


def draw_footprint(path: Path) -> None:
    """A gated layer after each step, against the claim and the L2."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    prints = [measure_step(describe_gated(1), step, is_training=False) for step in STEPS]
    places = range(len(STEPS))
    below = [0.0] * len(STEPS)
    for field, (label, colour) in PARTS.items():
        sizes = [getattr(footprint, field) / MB for footprint in prints]
        axes.bar(places, sizes, bottom=below, color=colour, label=label, width=0.6)
        below = [a + b for a, b in zip(below, sizes, strict=True)]
    for x, total in zip(places, below, strict=True):
        axes.annotate(f"{total:.0f}", (x, total), ha="center", va="bottom", fontsize=9)
    for cache_mb, side in zip(PRESETS, ("bottom", "top"), strict=True):
        axes.axhline(cache_mb, color=INK, linewidth=1, linestyle=":")
        place = (len(STEPS) - 0.6, cache_mb)
        axes.annotate(f"{cache_mb} MB of L2", place, fontsize=8, va=side)
    axes.plot(
        [0, len(STEPS) - 1], [CLAIMS.layer_mb, CLAIMS.compressed_mb], "v", color="#c1440e",
        label="the seed says", zorder=3,
    )  # fmt: skip
    axes.set_xticks(places, [step.name.replace(", ", ",\n") for step in STEPS], fontsize=8)
    axes.set_xlim(-0.6, len(STEPS) + 0.3)
    axes.set_ylabel("MB of one layer, inference")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def draw_speed(path: Path, comparisons: Mapping[str, Comparison]) -> None:
    """Tokens/s over the number of streams, a panel for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(comparisons), sharey=True)
    for axes, (network, found) in zip(panels, comparisons.items(), strict=True):
        for layout, colour in COLOURS.items():
            speeds = [row[layout].tokens_per_s for row in found.values()]
            axes.loglog(list(found), speeds, color=colour, label=layout, linewidth=1.6)
        axes.set_title(network, fontsize=10)
        axes.set_xlabel("streams")
        axes.set_xticks(list(found), [str(n) for n in found], fontsize=8)
        axes.minorticks_off()
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("predicted tokens/s of all streams")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def draw(folder: Path, comparisons: Mapping[str, Comparison]) -> None:
    """Both pictures, the same bytes for the same figures."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    # Without a fixed salt and date each run writes other bytes.
    with mpl.rc_context({"svg.hashsalt": "partwise", "svg.fonttype": "none"}):
        draw_footprint(folder / "layerwise-footprint.svg")
        draw_speed(folder / "layerwise-speed.svg", comparisons)
