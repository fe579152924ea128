"""Which of two predictions is better by each goal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from partwise.distributor.goal import GOALS, Goal, rank

# (latency in seconds, tokens per second, number of parts)
SOON, MANY, FEW = (1.0, 10.0, 3), (3.0, 90.0, 4), (2.0, 20.0, 2)


def make(figures: tuple[float, float, int]) -> Any:
    latency_s, tokens_per_s, num_parts = figures
    return SimpleNamespace(
        latency_s=latency_s, tokens_per_s=tokens_per_s, parts=("part",) * num_parts
    )


@pytest.mark.parametrize(
    ("goal", "best"), list(zip(GOALS, (SOON, MANY, FEW), strict=True)), ids=list(GOALS)
)
def test_each_goal_has_its_own_best(goal: Goal, best: tuple[float, float, int]) -> None:
    assert min((FEW, MANY, SOON), key=lambda figures: rank(make(figures), goal)) == best


@pytest.mark.parametrize(
    ("goal", "better", "worse"),
    [
        ("latency", (1, 9, 2), (1, 8, 1)),
        ("throughput", (1, 9, 2), (2, 9, 1)),
        ("fewest-servers", (2, 9, 2), (1, 8, 2)),
        ("fewest-servers", (1, 9, 2), (2, 9, 2)),
    ],
)
def test_ties_are_broken_by_the_other_figures(
    goal: Goal, better: tuple[float, float, int], worse: tuple[float, float, int]
) -> None:
    assert rank(make(better), goal) < rank(make(worse), goal)
