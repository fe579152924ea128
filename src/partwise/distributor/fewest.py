"""Plans of as few servers as hold the model: those with most room, one more at a time."""

from __future__ import annotations

from dataclasses import replace

from partwise.distributor import greedy
from partwise.distributor.arrangement_search import search_plans
from partwise.distributor.contest import try_makers
from partwise.distributor.group_costs import GroupCosts
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem


def list_fewest(problem: Problem, strategy: str, fewer_than: int) -> list[Plan]:
    """Plans of the fewest servers found, where these are below ``fewer_than``; else none.

    What any servers hold, as many of those with most room hold too. Whether these do is
    searched: exactly where they are few (`arrangement_search.py`).
    """
    costs = GroupCosts(problem, 1)
    least = costs.count_least()
    roomiest = sorted(problem.servers, key=lambda name: -min(costs.limits[name]))
    for num_servers in range(least or fewer_than, fewer_than):
        few = replace(problem, servers=tuple(roomiest[:num_servers]))
        filled = try_makers(few, [greedy.find])
        plans = [*filled, *search_plans(few, strategy, 1, filled)]
        if plans:
            return plans
    return []
