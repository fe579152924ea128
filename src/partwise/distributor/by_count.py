"""The strategy ``count``: every server owns as many neurons of each kind in each layer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from partwise.distributor.build import build_plan, name_parts
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.problem import Problem
from partwise.distributor.shares import note_rounding, share_out, split_by_weight

NAME = "count"
HELP = "by neurons: an equal number of each kind, in every layer, to each server"


def plan(problem: Problem) -> Plan:
    """One stage of all layers; the servers are its members.

    Norms have no neurons: each server holds them. Options: ``granules``, neurons by kind that
    must stay together (default 1).

    Raises:
        Infeasible: more servers than a layer has granules, or too little memory.
    """
    return plan_by_weight(problem, NAME, [Fraction(1)] * len(problem.servers))


def plan_by_weight(
    problem: Problem,
    strategy: str,
    weights: Sequence[float | Fraction],
    notes: Sequence[str] = (),
) -> Plan:
    """One stage of all layers, its neurons in proportion to ``weights`` of the servers.

    Raises:
        Infeasible: see `plan`.
    """
    model, granules = problem.model, problem.options.get("granules", {})
    layers = (0, len(model.layers))
    members = share_out(
        model,
        layers,
        list(name_parts(problem.servers).values()),
        split_by_weight(weights, granules),
        granules,
    )
    stage = Stage(start=layers[0], stop=layers[1], members=members)
    rounding = note_rounding(model, weights, granules)
    return build_plan(problem, strategy, (stage,), problem.servers, [*notes, *rounding])
