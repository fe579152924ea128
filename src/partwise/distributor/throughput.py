"""The strategy ``throughput``: stages, members and shares by the tokens of all streams."""

from __future__ import annotations

from partwise.distributor.contest import GOALS
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.reduction import plan_reduced
from partwise.distributor.searched import find_searched

NAME = "throughput"
HELP = "stages by layers and by neurons: the most tokens per second over all streams"


def plan(problem: Problem) -> Plan:
    """The most tokens per second found for the workload's streams; one server where it wins.

    Never worse than ``balanced``, ``count``, ``compute`` and ``greedy``. What is exact, and the
    options, are as in `latency`. For several numbers of streams see `adaptive.py`.

    Raises:
        Infeasible: nothing fits, with what is missing.
    """
    return plan_reduced(problem, find)


def find(problem: Problem) -> Plan | None:
    """The plan for layers as they are; None where nothing fits."""
    return find_searched(problem, NAME, problem.workload.streams, GOALS["throughput"])
