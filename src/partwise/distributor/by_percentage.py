"""The strategy ``percentage``: each server owns the percentage of the neurons that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partwise.distributor.by_count import plan_by_weight
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import plan_or_say
from partwise.distributor.shares import exact
from partwise.errors import PlanError

NAME = "percentage"
HELP = "by neurons: the percentage of each kind, in every layer, that each server is given"


def plan(problem: Problem) -> Plan:
    """One stage of all layers, its neurons shared as ``percentages`` say.

    Options: ``percentages``, by server or in the servers' order, that add up to 100 exactly
    as written; ``granules`` as in `by_count`. A percentage too small for one granule of a kind
    gives none of it, and the plan's notes say so; a server that gets none of any is left out.

    Raises:
        PlanError: no percentages, one for an unknown server or missing, not above 0, or they do
            not add up to 100.
        Infeasible: too little memory.
    """
    return plan_or_say(problem, _find)


def _find(problem: Problem) -> Plan:
    percentages = read_percentages(problem.options.get("percentages"), problem.servers)
    return plan_by_weight(problem, NAME, percentages)


def read_percentages(given: Any, servers: Sequence[str]) -> list[float]:
    """One percentage for each of ``servers``.

    Raises:
        PlanError: see `plan`.
    """
    names = ", ".join(servers)
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in servers]
        missing = [name for name in servers if name not in given]
        if unknown or missing:
            what = f"server {unknown[0]!r} is unknown" if unknown else f"{missing[0]!r} has none"
            raise PlanError(f"percentages: {what}; give one for each of {names}")
        given = [given[name] for name in servers]
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != len(servers):
        raise PlanError(f"percentages are {given!r}: give {len(servers)}, for {names}")
    for name, value in zip(servers, given, strict=True):
        if type(value) not in {int, float} or not 0 < value <= 100:
            raise PlanError(
                f"the percentage of server {name!r} is {value!r}: give a number above 0 and at"
                " most 100, or leave the server out"
            )
    total = sum(map(exact, given))
    if total != 100:
        raise PlanError(
            f"the percentages add up to {float(total):.10g}, not 100: change one by"
            f" {float(100 - total):+.10g}"
        )
    return list(given)
