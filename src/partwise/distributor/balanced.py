"""The strategy ``balanced``: consecutive layers, the slowest part as fast as any cut allows.

`plan` takes servers as they are, by the cost model; `balance_layers` takes them as equal, by
the bytes that a token reads, plus a constant for each block (`weigh`). Both take links as free,
and split no layer that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from partwise.distributor.balanced_groups import find_groups
from partwise.distributor.balanced_runs import solve_all
from partwise.distributor.build import build_plan, identify, join, whole_stages
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Member, Part, Plan, Precision, RunnerName, Stage
from partwise.distributor.problem import Problem
from partwise.distributor.reduction import plan_reduced
from partwise.distributor.runners import runner_for
from partwise.distributor.verify import verify_plan
from partwise.distributor.workload import ELEMENT_BYTES
from partwise.errors import PlanError
from partwise.model.description import Layer, LayerKind, Model

NAME = "balanced"
HELP = "by layers: the slowest part as fast as possible, over unequal servers"

BLOCK_OVERHEAD_BYTES = {"torch": 4_000_000, "onnx": 300_000}
"""What a block costs besides reading, by runner, in bytes of weights read meanwhile: 0.2 ms at 22
GB/s, and 12 us at 25 (measured; docs/decisions/0001)."""


def plan(problem: Problem) -> Plan:
    """A stage for each server that helps, the slowest part as fast as the cuts allow.

    For the servers used, no cut by layers in their order has a faster slowest part. Which are
    used follows from servers priced as if all were: where some stay unused, the rest are solved
    for again, and where there are few, every choice of them is (`list_choices`).

    Options: ``keep_order``, whether servers take their layers in the order given. Without it
    the order is chosen: exactly where they are few or of few kinds (`server_order.py`),
    otherwise by a search, and the plan's notes say so. ``cache_fit``, whether what a part reads
    again and again must fit its share of its host's cache. Where whole layers do not fit,
    servers share them by neurons (`balanced_groups.py`), or layers are reduced as the problem
    allows (`reduction.py`).

    Raises:
        Infeasible: the servers cannot hold the layers, with what is missing.
    """
    return plan_reduced(problem, find)


def find(problem: Problem) -> Plan | None:
    """The plan for layers as they are; None where some are left over."""
    found = solve_all(problem)
    if not found:
        return find_groups(problem, NAME)
    best = min(found, key=lambda solution: solution.slowest_s)
    notes = []
    if not best.is_exact:
        count = len(problem.servers)
        notes = [f"the order of {count} unequal servers is searched, not proved best"]
    used = [server for server, _, _ in best.runs]
    return build_plan(problem, NAME, whole_stages(best.runs), used, notes)


def balance_layers(
    model: Model,
    servers: Sequence[str],
    *,
    precision: Precision = "fp32",
    runner: RunnerName | None = None,
    plan_version: int = 1,
) -> Plan:
    """One part of consecutive layers for each of ``servers``, in their order; ``runner``
    computes them (None: the one of the precision's rates).

    The largest part by `weigh` is as small as any cut allows, and the rest is even.

    Raises:
        PlanError: no server, more servers than layers, or a server named twice.
    """
    num_layers = len(model.layers)
    if not servers:
        raise PlanError("a plan needs at least 1 server, got 0: name one")
    if len(servers) > num_layers:
        raise PlanError(
            f"{len(servers)} parts are more than the {num_layers} layers of {model.name}:"
            f" ask for {num_layers} parts or fewer"
        )
    runner = runner or runner_for(precision)
    overhead = round(BLOCK_OVERHEAD_BYTES[runner] / ELEMENT_BYTES[precision])
    cuts = cut_evenly([weigh(layer, overhead) for layer in model.layers], len(servers))
    names = [f"part{i}" for i in range(len(servers))]
    stages = tuple(
        Stage(start=start, stop=stop, members=(Member(part=name),))
        for name, (start, stop) in zip(names, pairwise(cuts), strict=True)
    )
    plan = Plan(
        plan_version=plan_version,
        strategy=NAME,
        model=identify(model),
        stages=stages,
        parts=tuple(
            Part(
                name=name,
                server=server,
                precision=precision,
                runner=runner,
            )
            for name, server in zip(names, servers, strict=True)
        ),
        links=join(stages),
        placements=place_parameters(model, stages),
    )
    verify_plan(plan, model, servers)
    return plan


def weigh(layer: Layer, block_overhead: int) -> int:
    """What a decoded token costs in ``layer``: the elements that it reads (one precision for
    all, so as good as bytes), and for a block what its operators cost whatever their size, as
    ``block_overhead`` elements.

    An embedding table is only looked up: counting it whole would starve its server of work.
    """
    overhead = block_overhead if layer.kind is LayerKind.BLOCK else 0
    return layer.read_elements_per_token + overhead


def cut_evenly(weights: Sequence[int], num_parts: int) -> list[int]:
    """The ``num_parts + 1`` bounds of runs of ``weights``, none empty, whose largest is least.

    Of the cuts with that largest run, the one with the least sum of squares: the most even.
    """
    sums = [0, *accumulate(weights)]
    limit = find_least_limit(weights, num_parts)
    # best[stop] is (sum of squares, bounds) of weights[:stop] in the runs so far.
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, (0,))}
    for _ in range(num_parts):
        longer: dict[int, tuple[int, tuple[int, ...]]] = {}
        for start, (squares, bounds) in best.items():
            for stop in range(start + 1, len(sums)):
                run = sums[stop] - sums[start]
                if run > limit:
                    break
                if stop not in longer or squares + run**2 < longer[stop][0]:
                    longer[stop] = (squares + run**2, (*bounds, stop))
        best = longer
    return list(best[len(weights)][1])


def find_least_limit(weights: Sequence[int], num_parts: int) -> int:
    """The least bound under which ``num_parts`` runs can hold all ``weights``.

    Fewer runs suffice too: each cut more makes no run larger.
    """
    low, high = max(weights), sum(weights)
    while low < high:
        middle = (low + high) // 2
        if _count_runs(weights, middle) <= num_parts:
            high = middle
        else:
            low = middle + 1
    return low


def _count_runs(weights: Sequence[int], limit: int) -> int:
    runs, filled = 1, 0
    for weight in weights:
        if filled + weight > limit:
            runs, filled = runs + 1, 0
        filled += weight
    return runs
