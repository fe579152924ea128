"""Budgets of memory or cache, filled in turn with whole layers."""

from __future__ import annotations

from collections.abc import Callable

from partwise.distributor.cache_fit import find_cache_limits
from partwise.distributor.problem import Problem
from partwise.distributor.segment_costs import SegmentCosts

Fits = Callable[[int, int, int], bool]
"""Whether a server (by index) can hold layers start:stop. Never true for more of them only."""


def fill_budgets(num_layers: int, fits: Fits, num_servers: int) -> list[int]:
    """The bounds of each server's layers; the last is below ``num_layers`` where some are left.

    It asks ``fits`` once a layer and once a server.
    """
    bounds = [0]
    for server in range(num_servers):
        start = stop = bounds[-1]
        while stop < num_layers and fits(server, start, stop + 1):
            stop += 1
        bounds.append(stop)
    return bounds


def find_budgets(problem: Problem) -> Fits:
    """Whether layers fit a server's memory and, with ``cache_fit``, its share of the cache.

    Raises:
        Infeasible: ``cache_fit`` is asked, and a host's cache is not known.
    """
    return SegmentCosts(
        problem.model,
        problem.cluster,
        problem.workload,
        problem.servers,
        find_cache_limits(problem),
    ).fits
