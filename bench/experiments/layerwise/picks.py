"""What the planner itself picks on the seed's 16 cards, and where it changes over."""

from __future__ import annotations

from functools import cache

from experiments.layerwise.speed import LAYER_WISE, compare_seed, halve
from experiments.layerwise.world import (
    NETWORKS,
    describe_gated,
    name_plan,
    open_cluster,
    pose,
)
from experiments.page import Table, round_figure
from partwise.cli.format import Cell
from partwise.distributor.adaptive import AdaptivePlan, plan_adaptive, predict_at
from partwise.distributor.cost import Prediction
from partwise.distributor.strategies import STRATEGIES

STREAMS = (1, 4, 16, 64, 128, 512)
STRATEGY = "throughput"


@cache
def adapt(network: str) -> AdaptivePlan:
    """A plan for each number of streams, whichever serves them best."""
    problem = pose(describe_gated(), open_cluster(32, network), halve(1))
    return plan_adaptive(problem, STRATEGIES[STRATEGY], STREAMS)


def predict_pick(network: str, streams: int) -> Prediction:
    """Of the plan that `adapt` holds for so many streams."""
    problem = pose(describe_gated(), open_cluster(32, network), halve(streams))
    prediction = predict_at(problem, adapt(network).plan_at(streams), streams)
    assert prediction is not None, "a plan made for these servers fits them"
    return prediction


def tabulate_picks() -> Table:
    """The planner's plan for each number of streams, beside the layouts compared."""
    rows: list[tuple[Cell, ...]] = []
    for network in NETWORKS:
        for streams in STREAMS:
            plan, layouts = adapt(network).plan_at(streams), compare_seed(network)[streams]
            speed = predict_pick(network, streams).tokens_per_s
            speeds = {n: p.tokens_per_s for n, p in layouts.items() if n != "16 copies"}
            best = max(speeds, key=lambda name: speeds[name])
            others = (layouts[best].tokens_per_s, layouts[LAYER_WISE].tokens_per_s)
            rows.append(
                (
                    network,
                    streams,
                    name_plan(plan),
                    round_figure(speed),
                    best,
                    *(round_figure(speed / other) for other in others),
                )
            )
    return Table(
        name="picks",
        title=f"What the planner picks on 16 cards, strategy {STRATEGY}",
        headers=(
            "network", "streams", "stages x members", "tokens/s", "best layout above",
            "times it", "times layer-wise",
        ),
        rows=rows,
    )  # fmt: skip


def tabulate_change_overs() -> Table:
    """From how many streams on another plan is better: the seed's adaptive partitioning."""
    rows: list[tuple[Cell, ...]] = [
        (
            network,
            span.start,
            "" if span.stop is None else span.stop - 1,
            name_plan(span.plan),
            len(span.plan.parts),
        )
        for network in NETWORKS
        for span in adapt(network).spans
    ]
    return Table(
        name="change-overs",
        title="Adaptive partitioning: the plan by the number of streams",
        headers=("network", "from streams", "to streams", "stages x members", "cards"),
        rows=rows,
    )
