"""What is done where layers do not fit as they are, as far as the problem allows it: a lower
precision, then fewer MLP units.

All layers of a plan are reduced alike. It decides no accuracy: what a reduction costs is
measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec

from partwise.distributor.build import say_bytes
from partwise.distributor.cache_fit import find_cache_limits
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.shortfall import describe_shortfall
from partwise.distributor.splitting import count_held, is_held
from partwise.distributor.workload import ELEMENT_BYTES, Workload
from partwise.errors import Infeasible
from partwise.model.families.family import MLP_UNIT

Find = Callable[[Problem], Plan | None]
"""A strategy for layers as they are; None where no plan of it fits."""
SPARSITIES = tuple(i / 10 for i in range(1, 10))
"""Shares of MLP units that are tried, the least first."""


def plan_reduced(problem: Problem, find: Find) -> Plan:
    """What ``find`` plans for the layers as they are, else for the least reduced that fit.

    Reductions that ``problem.allow`` names (``int8``, ``int4``, ``sparse``) are tried from the
    least on, and the plan's notes say what was reduced and why.

    Raises:
        Infeasible: nothing fits; what is missing for the layers as much reduced as allowed.
    """
    plan = find(problem)
    if plan is not None:
        return plan
    reduced = problem
    for workload in list_reductions(problem):
        reduced = replace(problem, workload=workload, allow=frozenset())
        # Most reductions do not suffice: this is told sooner than a plan is made.
        plan = find(reduced) if is_held(reduced) else None
        if plan is not None:
            note = _describe(problem, workload)
            return msgspec.structs.replace(plan, notes=(note, *plan.notes))
    tried = f"even {_say_reduced(reduced.workload)}, as allowed, " if reduced != problem else ""
    raise Infeasible(tried + describe_shortfall(reduced, count_held(reduced), is_held))


def list_reductions(problem: Problem) -> Iterator[Workload]:
    """The workload with layers reduced as the problem allows and its hosts compute: lower
    precisions first, then the lowest of them with ever fewer MLP units."""
    lowest = problem.workload
    hosts = [problem.cluster.host_of(name) for name in problem.servers]
    for precision in ("int8", "int4"):
        is_lower = ELEMENT_BYTES[precision] < lowest.element_bytes
        if precision in problem.allow and is_lower and all(precision in h.rates for h in hosts):
            lowest = replace(lowest, precision=precision)
            yield lowest
    kinds = {kind.name for layer in problem.model.layers for kind in layer.neuron_kinds}
    if "sparse" in problem.allow and MLP_UNIT in kinds:
        for sparsity in SPARSITIES:
            if sparsity > lowest.mlp_sparsity:
                yield replace(lowest, mlp_sparsity=sparsity)


def name_reduction(precision: str, mlp_sparsity: float) -> str:
    """What layers were reduced to, in the words of plans and of compression reports."""
    removed = f" without {100 * mlp_sparsity:g} % of the MLP units"
    return f"{precision}{removed if mlp_sparsity else ''}"


def _describe(problem: Problem, workload: Workload) -> str:
    """What was reduced, and what the model and its largest layer take before and after."""
    limits = find_cache_limits(problem)
    offered = limits or [problem.cluster.server(name).memory_bytes for name in problem.servers]
    before, after = (_measure(replace(problem, workload=w)) for w in (problem.workload, workload))
    return (
        f"{_say_reduced(workload)}, as allowed:"
        f" the model takes {say_bytes(after[0])} instead of {say_bytes(before[0])}, its largest"
        f" layer {say_bytes(after[1])} instead of {say_bytes(before[1])}; the servers offer"
        f" {say_bytes(sum(offered))} of {'memory' if limits is None else 'cache'}, at most"
        f" {say_bytes(max(offered))} each"
    )


def _say_reduced(workload: Workload) -> str:
    return f"reduced to {name_reduction(workload.precision, workload.mlp_sparsity)}"


def _measure(problem: Problem) -> tuple[float, float]:
    """Bytes of all layers and of the largest, of memory or of cache."""
    costs = SegmentCosts(problem.model, problem.cluster, problem.workload, problem.servers)
    measure = costs.working_set_bytes if problem.options.get("cache_fit") else costs.bytes
    num_layers = len(problem.model.layers)
    return measure(0, num_layers), max(measure(i, i + 1) for i in range(num_layers))
