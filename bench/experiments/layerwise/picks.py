"""What the planner itself picks on the seed's 16 cards, and where it changes over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from experiments.layerwise.speed import GRIDS, LAYER_WISE, compare_seed, halve, measure
from experiments.layerwise.world import (
    NETWORKS,
    describe_gated,
    name_layout,
    open_cluster,
    pose,
)
from experiments.page import Table, round_figure
from partwise.cli.format import Cell
from partwise.distributor.adaptive import AdaptivePlan, plan_adaptive
from partwise.distributor.cost import predict
from partwise.distributor.plan import Plan
from partwise.distributor.strategies import STRATEGIES

STREAMS = (1, 4, 16, 64, 128, 512)


def name_plan(plan: Plan) -> str:
    """The stages by their number of members, e.g. ``TP 8 x PP 2`` or ``3 of 4, 1 of 2``."""
    members = Counter(len(stage.members) for stage in plan.stages)
    if len(members) == 1:
        return name_layout(len(plan.stages), len(plan.stages[0].members))
    return ", ".join(f"{num_stages} of {size}" for size, num_stages in sorted(members.items()))


def adapt(network: str, strategy: str, streams: Iterable[int] = STREAMS) -> AdaptivePlan:
    """The seed's adaptive partitioning: a plan for each number of streams."""
    cluster = open_cluster(32, network)
    problem = pose(describe_gated(), cluster, halve(1))
    return plan_adaptive(problem, STRATEGIES[strategy], list(streams))
