"""The layer-wise seed's table, honestly: what its 16-layer model takes, how many cards a layer
needs, and how fast layer-wise is beside TP 8 x PP 2, all predicted by the planner.

Nothing is measured: it plans with the presets' published and assumed figures, from a model that
has no weights. Run with its default arguments it also brings the tables of
docs/experiments/layerwise-seed.md up to date.

    python bench/experiments/layerwise_seed.py [--page FILE] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.layerwise.claims import tabulate_arithmetic, tabulate_claims
from experiments.layerwise.memory import (
    MODELS,
    count_devices,
    measure_step,
    tabulate_answers,
    tabulate_devices,
    tabulate_footprint,
    tabulate_kv_room,
    tabulate_utilisation,
)
from experiments.layerwise.picks import tabulate_change_overs, tabulate_picks
from experiments.layerwise.residency import (
    compare_claimed,
    tabulate_claimed,
    tabulate_layers,
    tabulate_resident,
)
from experiments.layerwise.scaling import tabulate_scaling
from experiments.layerwise.sensitivity import tabulate_sensitivity
from experiments.layerwise.speed import Comparison, compare_seed, find_ratios, tabulate_speed
from experiments.layerwise.world import (
    FULL,
    HALVED,
    MB,
    NETWORKS,
    PRESETS,
    SLOW_LINKS,
    describe_gated,
)
from experiments.page import PAGES, Table, update_page
from harness import has_defaults, report


def tabulate(comparisons: dict[str, Comparison]) -> list[Table]:
    """Every table, in the order of the page."""
    return [
        tabulate_claims(comparisons),
        tabulate_arithmetic(),
        *(tabulate_footprint(name, is_training=use) for name in MODELS for use in (False, True)),
        tabulate_devices(),
        tabulate_answers(),
        tabulate_kv_room(),
        tabulate_utilisation(),
        *tabulate_speed(comparisons),
        tabulate_picks(),
        tabulate_change_overs(),
        tabulate_sensitivity(),
        tabulate_layers(),
        tabulate_claimed(),
        tabulate_resident(),
        tabulate_scaling(),
    ]


def summarise(comparisons: dict[str, Comparison]) -> dict[str, Any]:
    """The figures of the JSON line."""
    sizes = {
        step.name: measure_step(describe_gated(1), step, is_training=False).weight_bytes / MB
        for step in (FULL, HALVED)
    }
    ratios = {network: find_ratios(found) for network, found in comparisons.items()}
    return {
        "layer_fp16_mb": sizes[FULL.name],
        "layer_compressed_mb": sizes[HALVED.name],
        **{
            f"devices_per_layer_{mb}mb": count_devices(describe_gated(1), HALVED, mb)
            for mb in PRESETS
        },
        "throughput_ratio_by_streams": ratios,
        "throughput_ratio_if_as_claimed": {
            f"{mb}mb": find_ratios(compare_claimed(mb, SLOW_LINKS))[1] for mb in PRESETS
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, default=PAGES / "layerwise-seed.md")
    parser.add_argument("--pictures", type=Path, help="draw them too (needs matplotlib)")
    args = parser.parse_args()
    comparisons = {network: compare_seed(network) for network in NETWORKS}
    tables = tabulate(comparisons)
    for table in tables:
        print(f"{table.render_text()}\n")
    update_page(args.page, tables)
    if args.pictures is not None:
        from experiments.layerwise.pictures import draw

        draw(args.pictures, comparisons)
    report(
        "layerwise_seed",
        summarise(comparisons),
        {table.name: [table.headers, *table.rows] for table in tables},
        is_default=has_defaults(parser, args),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
