"""The strategy ``greedy``: fill each server's budget of memory or cache before the next one's.

It looks at no time. For equal budgets no plan by layers has fewer parts: each part ends as
far on as any plan's part of the same rank could.
"""

from __future__ import annotations

from itertools import pairwise

from partwise.distributor.budgets import fill_budgets, find_budgets
from partwise.distributor.build import build_plan, whole_stages
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.reduction import plan_reduced
from partwise.distributor.splitting import find_split

NAME = "greedy"
HELP = "by layers: fill the memory (or with --cache-fit the cache) of each server in turn"


def plan(problem: Problem) -> Plan:
    """A stage for each server that is needed, in the order given.

    A server that cannot hold the next layer stays unused; where layers are left over so,
    several servers share it by neurons (`splitting.py`), or layers are reduced as the problem
    allows (`reduction.py`). Options: ``cache_fit``, whether what a part reads again and again
    must also fit its share of its host's cache.

    Raises:
        Infeasible: layers are left over, with what is missing.
    """
    return plan_reduced(problem, find)


def find(problem: Problem) -> Plan | None:
    """The plan for layers as they are; None where some are left over."""
    num_layers = len(problem.model.layers)
    bounds = fill_budgets(num_layers, find_budgets(problem), len(problem.servers))
    if bounds[-1] < num_layers:
        return find_split(problem, NAME)
    runs = [
        (server, start, stop)
        for server, (start, stop) in zip(problem.servers, pairwise(bounds), strict=True)
        if start < stop
    ]
    return build_plan(problem, NAME, whole_stages(runs), [server for server, _, _ in runs])
