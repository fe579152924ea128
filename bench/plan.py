"""Planning: how good plans are, how long they take, what connectivity saves, and whether they
run as predicted.

A module for each group of figures: `plan_exact.py`, `plan_speed.py`, `plan_connectivity.py`,
`plan_prediction.py`. The last one takes most of the time.

    python bench/plan.py [--medium N] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from harness import ROOT, has_defaults, report

# Models, clusters and exact solvers are those of the tests: what is measured is what is proved.
sys.path.insert(0, str(ROOT / "tests"))

import plan_connectivity
import plan_exact
import plan_prediction
import plan_speed
from partwise.cli.format import format_table

Rows = list[tuple[str, str, str]]
WIDTHS = (8, 16, 32)


def judge_plans(num_medium: int) -> tuple[dict[str, Any], Rows]:
    """Figures, and rows of (what, figure, bound)."""
    small, greedy = plan_exact.compare_small(), plan_exact.compare_greedy()
    medium = plan_exact.compare_medium(num_medium)
    gaps = plan_exact.measure_gaps()
    equal = small.equal + medium.equal
    compared = small.compared + medium.compared
    figures = {
        "balanced_optimal": equal / compared,
        "greedy_fewest": greedy.share,
        "gap_medium": statistics.median(gaps),
        "gap_medium_worst": max(gaps),
    }
    rows = [
        ("balanced, of every cut and order", f"{small.equal} of {small.compared}", "all"),
        ("balanced, of HiGHS", f"{medium.equal} of {medium.compared}", "all"),
        ("greedy with the fewest parts", f"{greedy.equal} of {greedy.compared}", "all"),
        ("a searched order over the best", plan_exact.describe_gaps(gaps), "published"),
    ]
    return figures, rows


def time_plans() -> tuple[dict[str, Any], Rows]:
    autos = {
        (goal, precision, streams): plan_speed.time_auto(goal, precision, streams)
        for goal in ("latency", "throughput", "fewest-servers")
        for precision, streams in (("bf16", 1), ("bf16", 64), ("int4", 8))
    }
    figures = {
        "seconds_1000x128": plan_speed.time_balanced(1000, 128),
        "seconds_100000x1000": plan_speed.time_balanced(100_000, 1000),
        "seconds_auto_405b": max(autos.values()),
    }
    num_layers, num_servers = plan_speed.SEED_LAYERS, plan_speed.SEED_LAYERS // 8
    table_s, by_table_s, balanced_s = plan_speed.time_table(num_layers, num_servers)
    assert plan_exact.is_same(by_table_s, balanced_s), (by_table_s, balanced_s)
    figures["seconds_cubic_200x25"] = table_s
    rows = [
        ("balanced, 1,000 x 128", f"{figures['seconds_1000x128']:.3f} s", "< 0.2 s"),
        ("balanced, 100,000 x 1,000", f"{figures['seconds_100000x1000']:.2f} s", "< 10 s"),
        *(
            (f"auto, 405B, {goal}, {precision}, {streams} streams", f"{seconds:.2f} s", "< 5 s")
            for (goal, precision, streams), seconds in autos.items()
        ),
        (f"a table, {num_layers} x {num_servers}", f"{table_s:.2f} s", "for contrast"),
    ]
    return figures, rows


def cut_chains() -> tuple[dict[str, Any], Rows]:
    savings = [plan_connectivity.measure_saving(width) for width in WIDTHS]
    rows = [
        (
            f"connectivity, blocks of {saving.width}",
            plan_connectivity.describe(saving),
            ">= 5" if saving.width == WIDTHS[0] else "published",
        )
        for saving in savings
    ]
    return {"connectivity_saving": savings[0].least_found}, rows


def check_predictions(rounds: int) -> tuple[dict[str, Any], Rows, dict[str, Any]]:
    """Figures, rows and the details behind them."""
    figures, details = plan_prediction.measure_prediction(rounds=rounds)
    rows = [
        (
            f"predicted tokens/s, {name}",
            f"{figures[f'prediction_error_{key}']:.1%} off",
            f"<= {bound:.0%}",
        )
        for name, key, bound in (
            ("median", "median", plan_prediction.MEDIAN_BOUND),
            ("9 of 10", "p90", plan_prediction.P90_BOUND),
        )
    ]
    wrong = figures.pop("wrong_verdicts")
    rows.append(('wrong "beats one machine"', "; ".join(wrong) or "none", "listed"))
    return figures, rows, details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--medium", type=int, default=plan_exact.NUM_MEDIUM)
    parser.add_argument("--rounds", type=int, default=plan_prediction.ROUNDS)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    rows: Rows = []
    for more_figures, more_rows in (judge_plans(args.medium), time_plans(), cut_chains()):
        figures |= more_figures
        rows += more_rows
    more_figures, more_rows, details = check_predictions(args.rounds)
    figures |= more_figures
    rows += more_rows
    print(format_table(("what", "figure", "bound"), rows))
    details = {"rows": rows, "prediction": details}
    report("plan", figures, details, is_default=has_defaults(parser, args))


if __name__ == "__main__":
    main()
