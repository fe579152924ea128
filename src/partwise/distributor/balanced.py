"""The strategy ``balanced``: contiguous layers over equal servers, by the bytes they read.

It takes servers as equal and links as free; it splits no layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Link, Member, ModelIdentity, Part, Plan, Precision, Stage
from partwise.distributor.verify import verify_plan
from partwise.errors import PlanError
from partwise.model.description import Model


def balance_layers(
    model: Model, servers: Sequence[str], *, precision: Precision = "fp32", plan_version: int = 1
) -> Plan:
    """One part of consecutive layers for each of ``servers``, in their order.

    A layer weighs the bytes that one decoded token reads (one precision for all, so their
    elements): an embedding table is only looked up, and counting it whole would starve its
    server of work. The largest part is as small as any cut allows, and the rest is even.

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
    cuts = cut_evenly([layer.read_elements_per_token for layer in model.layers], len(servers))
    names = [f"part{i}" for i in range(len(servers))]
    stages = tuple(
        Stage(start=start, stop=stop, members=(Member(part=name),))
        for name, (start, stop) in zip(names, pairwise(cuts), strict=True)
    )
    plan = Plan(
        plan_version=plan_version,
        strategy="balanced",
        model=identify(model),
        stages=stages,
        parts=tuple(
            Part(name=name, server=server, precision=precision)
            for name, server in zip(names, servers, strict=True)
        ),
        links=tuple(Link(source=a, target=b) for a, b in pairwise(names)),
        placements=place_parameters(model, stages),
    )
    verify_plan(plan, model, servers)
    return plan


def identify(model: Model) -> ModelIdentity:
    """What a plan says of the model it is for."""
    return ModelIdentity(
        name=model.name,
        architecture=model.architecture,
        fingerprint=model.fingerprint,
        num_layers=len(model.layers),
    )


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
