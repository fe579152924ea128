"""Plans of as few servers as hold the model: those with most room, one more at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from partwise.distributor import greedy
from partwise.distributor.arrangement_search import search_plans
from partwise.distributor.contest import contend, try_makers
from partwise.distributor.group_costs import GroupCosts
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem

MAX_TRIED = 8
"""Of up to so many servers all sets are tried; of more, those that have most room of one kind."""


def list_fewest(problem: Problem, strategy: str, fewer_than: int) -> list[Plan]:
    """Plans of the fewest servers found, where these are below ``fewer_than``; else none.

    What any servers hold, as many of those with most room hold too, where memory alone counts.
    With ``cache_fit`` two budgets do: then all sets of few servers are tried. Whether a set
    holds the model is searched: exactly where it is small (`arrangement_search.py`).
    """
    costs = GroupCosts(problem, 1)
    least = costs.count_least()
    for num_servers in range(least or fewer_than, fewer_than):
        plans = []
        for names in _list_sets(costs, num_servers):
            few = replace(problem, servers=names)
            filled = try_makers(few, [greedy.find])
            plans += [*filled, *search_plans(few, strategy, 1, filled)]
        # A set has more cache for itself where those left out share a host with it.
        plans = [contender.plan for contender in contend(problem, plans)]
        if plans:
            return plans
    return []


def _list_sets(costs: GroupCosts, num_servers: int) -> list[tuple[str, ...]]:
    """Sets of so many servers to be tried, each in the order of room."""
    names, limits = costs.problem.servers, costs.limits
    by_memory = sorted(names, key=lambda name: limits[name], reverse=True)
    if not costs.problem.options.get("cache_fit"):
        return [tuple(by_memory[:num_servers])]
    if len(names) <= MAX_TRIED:
        *_, kept, cached, _ = costs.sum_whole(costs.rows(1))
        return [
            few for few in combinations(by_memory, num_servers) if _offer(limits, few, kept, cached)
        ]
    by_cache = sorted(names, key=lambda name: limits[name][::-1], reverse=True)
    by_least = sorted(names, key=lambda name: min(limits[name]), reverse=True)
    orders = (by_least, by_memory, by_cache)
    return list({tuple(order[:num_servers]): None for order in orders})


def _offer(
    limits: Mapping[str, tuple[float, float]], names: Sequence[str], kept: float, cached: float
) -> bool:
    """Whether servers offer together as much memory and cache as is kept and read."""
    memory = sum(limits[name][0] for name in names)
    return memory >= kept and sum(limits[name][1] for name in names) >= cached
