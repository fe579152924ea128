"""The strategy ``count``: every server owns as many neurons of each kind in each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from partwise.distributor.build import build_plan, name_parts
from partwise.distributor.member_shares import find_granules
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import plan_or_say
from partwise.distributor.shares import (
    Choose,
    Ranges,
    note_rounding,
    share_out,
    split_by_weight,
    split_equally,
)
from partwise.model.description import NeuronKind

NAME = "count"
HELP = "by neurons: an equal number of each kind, in every layer, to each server"


def plan(problem: Problem) -> Plan:
    """One stage of all layers; the servers are its members.

    Norms have no neurons: each server holds them. Options: ``granules``, neurons by kind that
    must stay together (default 1; int4 keeps its blocks whole in any case).

    Raises:
        PlanError: granules that mean nothing.
        Infeasible: more servers than a layer has granules, or too little memory.
    """
    return plan_or_say(problem, find)


def find(problem: Problem, notes: Sequence[str] = ()) -> Plan:
    """The plan without a word on what would help where it does not fit.

    Raises:
        Infeasible: see `plan`.
    """
    granules = choose_granules(problem)
    weights = [1] * len(problem.servers)
    rounding = note_rounding(problem.model, weights, granules)
    split = split_equally(len(weights), granules)
    return plan_shared(problem, NAME, split, granules, [*notes, *rounding])


def plan_by_weight(problem: Problem, strategy: str, weights: Sequence[float | Fraction]) -> Plan:
    """One stage of all layers, its neurons in proportion to ``weights`` of the servers.

    Raises:
        Infeasible: too little memory.
    """
    granules = choose_granules(problem)
    rounding = note_rounding(problem.model, weights, granules)
    return plan_shared(problem, strategy, split_by_weight(weights, granules), granules, rounding)


def plan_shared(
    problem: Problem,
    strategy: str,
    choose: Choose,
    granules: Mapping[str, int],
    notes: Sequence[str] = (),
) -> Plan:
    """One stage of all layers, its neurons as ``choose`` gives them to the servers.

    A server that it gives none of any kind is left out: it would only wait in every exchange.

    Raises:
        Infeasible: too little memory.
    """
    model, layers = problem.model, (0, len(problem.model.layers))
    used = _find_used(problem, choose)
    servers = [problem.servers[i] for i in used]
    idle = [name for name in problem.servers if name not in servers]
    choose_used = choose if not idle else _choose_of(choose, used)
    parts = list(name_parts(servers).values())
    members = share_out(model, layers, parts, choose_used, granules)
    stage = Stage(start=layers[0], stop=layers[1], members=members)
    left_out = [f"left out, for its share has no neuron of any kind: {name}" for name in idle]
    return build_plan(problem, strategy, (stage,), servers, [*notes, *left_out])


def choose_granules(problem: Problem) -> dict[str, int]:
    """The neurons by kind that stay together, at the workload's precision.

    Raises:
        PlanError: the option ``granules`` means nothing.
    """
    asked = problem.options.get("granules")
    return find_granules(problem.model, problem.workload.precision, asked)


def _find_used(problem: Problem, choose: Choose) -> list[int]:
    """The servers (by index) that own a neuron; all where the model has none."""
    every = range(len(problem.servers))
    if len(every) == 1:
        return list(every)
    tables = {
        id(ranges): ranges
        for i, layer in enumerate(problem.model.layers)
        for kind in layer.neuron_kinds
        for ranges in (choose(i, kind),)
    }
    used = [i for i in every if any(ranges[i] for ranges in tables.values())]
    return used or list(every)


def _choose_of(choose: Choose, used: Sequence[int]) -> Callable[[int, NeuronKind], list[Ranges]]:
    def choose_used(layer: int, kind: NeuronKind) -> list[Ranges]:
        ranges = choose(layer, kind)
        return [ranges[i] for i in used]

    return choose_used
