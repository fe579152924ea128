"""The best plan that searching stages and the simpler strategies find, for one goal."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from partwise.distributor import balanced, by_compute, by_count, greedy
from partwise.distributor.arrangement_search import search_plans
from partwise.distributor.contest import Contender, Goal, contend, try_makers
from partwise.distributor.group_costs import GroupCosts
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.splitting import describe_split, is_too_large

SIMPLE = (balanced.find, by_count.find, by_compute.find, greedy.find)
"""What a search is never worse than. A plan on one server alone is among what it tries."""


def find_contenders(problem: Problem, strategy: str, streams: int) -> list[Contender]:
    """Plans of the simple strategies, then those searched for ``streams`` under the name
    ``strategy``; none where nothing fits."""
    simple = try_makers(problem, SIMPLE)
    return contend(problem, [*simple, *search_plans(problem, strategy, streams, simple)])


def find_searched(problem: Problem, strategy: str, streams: int, goal: Goal) -> Plan | None:
    """The best of all found for ``goal``, in the name of ``strategy``; None where nothing fits."""
    contenders = find_contenders(problem, strategy, streams)
    if not contenders:
        return None
    best = min(contenders, key=goal.rank).plan
    notes = [*best.notes, *note_split(problem, best)]
    if best.strategy != strategy:
        notes = [f"no plan found is better than that of {best.strategy}", *notes]
    return msgspec.structs.replace(best, strategy=strategy, notes=tuple(notes))


def note_split(problem: Problem, plan: Plan) -> Sequence[str]:
    """A line where a stage has several members because no server holds one of its layers."""
    costs = GroupCosts(problem, problem.workload.streams)
    has_split = any(len(stage.members) > 1 for stage in plan.stages)
    line = describe_split(costs)
    return [line] if has_split and is_too_large(costs) and line not in plan.notes else []
