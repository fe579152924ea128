"""The strategy ``latency``: stages, members and shares by what one stream alone waits for."""

from __future__ import annotations

from partwise.distributor.contest import GOALS
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.reduction import plan_reduced
from partwise.distributor.searched import find_searched

NAME = "latency"
HELP = "stages by layers and by neurons: the least time for a token of one stream alone"


def plan(problem: Problem) -> Plan:
    """The least predicted latency found, with hops and exchanges; one server where it wins.

    Never worse than ``balanced``, ``count``, ``compute`` and ``greedy``. The best choice of
    stages and members where the servers are few (`arrangement_search.py`), for shares of
    neurons chosen by speed (`arrangement.py`). Memory is taken for all of the workload's
    streams. Options: ``cache_fit`` as in `greedy`, ``granules`` as in `by_count`.

    Raises:
        Infeasible: nothing fits, with what is missing.
    """
    return plan_reduced(problem, find)


def find(problem: Problem) -> Plan | None:
    """The plan for layers as they are; None where nothing fits."""
    return find_searched(problem, NAME, 1, GOALS["latency"])
