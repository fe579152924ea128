"""Plans by the number of streams: one for each batch size, and where they change over.

A plan that is best for one stream is rarely best for many. It makes no plan itself, and knows
nothing of how a deployment passes from one plan to another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from partwise.distributor.build import check_memory
from partwise.distributor.contest import contend, read_goal
from partwise.distributor.cost import Prediction
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem, Strategy
from partwise.errors import Infeasible, PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From ``start`` streams up to, not including, ``stop`` ``plan`` serves them best; the last
    span has no stop."""

    start: int
    stop: int | None
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptivePlan:
    """The plan for any number of streams.

    ``spans`` ascend from 1 stream without a gap, and neighbours have different plans.
    ``overall`` is the one plan to take where plans cannot change: of those that fit all batch
    sizes asked for, the one that comes nearest to the best at each (geometric mean of the
    goal's first figure, then of its next); None where none fits all.
    """

    spans: tuple[Span, ...]
    overall: Plan | None

    def plan_at(self, streams: int) -> Plan:
        """The plan that serves so many streams best."""
        return next(s.plan for s in self.spans if s.stop is None or streams < s.stop)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The different plans, in the order of the streams that they serve first."""
        return tuple(dict.fromkeys(span.plan for span in self.spans))

    @property
    def change_overs(self) -> tuple[int, ...]:
        """The numbers of streams from which on another plan is better."""
        return tuple(span.start for span in self.spans[1:])


def plan_adaptive(problem: Problem, strategy: Strategy, streams: Sequence[int]) -> AdaptivePlan:
    """Plans of ``strategy`` for each batch size in ``streams``, and where they change over.

    Better is what the problem's option ``goal`` says (`contest.py`); without it, more tokens
    per second over all streams. Between two batch sizes asked for, plans are taken to change
    over once. A plan serves no number of streams at which it exceeds a memory or, where that is
    asked, a cache.

    Raises:
        PlanError: no batch size is given, or one below 1, or the goal is not known.
        Infeasible: no plan of the strategy fits one of them.
    """
    sizes = sorted(set(streams))
    if not sizes or sizes[0] < 1:
        raise PlanError(f"streams are {list(streams)}: give batch sizes of at least 1, e.g. 1,8,64")
    made = [_plan_for(problem, strategy, size) for size in sizes]
    # Notes may name the streams; plans that differ in them alone are one.
    plans = list({msgspec.structs.replace(plan, notes=()): plan for plan in made[::-1]}.values())
    plans.reverse()
    table = {size: [_rank(problem, plan, size) for plan in plans] for size in sizes}
    best = [min(range(len(plans)), key=lambda i: table[size][i]) for size in sizes]
    spans = [Span(start=1, stop=None, plan=plans[best[0]])]
    for i in range(1, len(sizes)):
        before, after = spans[-1].plan, plans[best[i]]
        if before != after:
            start = _find_change_over(problem, before, after, (sizes[i - 1], sizes[i]))
            spans[-1] = replace(spans[-1], stop=start)
            spans.append(Span(start=start, stop=None, plan=after))
    return AdaptivePlan(spans=tuple(spans), overall=_choose_overall(plans, table))


def predict_at(problem: Problem, plan: Plan, streams: int) -> Prediction | None:
    """What ``plan`` does for so many streams; None where it does not fit the servers,
    or their caches where that is asked."""
    asked = replace(problem, workload=replace(problem.workload, streams=streams))
    try:
        check_memory(plan, asked)
    except Infeasible:
        return None
    return next((contender.prediction for contender in contend(asked, [plan])), None)


def _plan_for(problem: Problem, strategy: Strategy, streams: int) -> Plan:
    workload = replace(problem.workload, streams=streams)
    try:
        return strategy.plan(replace(problem, workload=workload))
    except Infeasible as exc:
        raise Infeasible(f"for {streams} streams: {exc}") from exc


def _rank(problem: Problem, plan: Plan, streams: int) -> tuple[float, ...]:
    """The goal's figures, the less the better; infinite where the plan does not fit."""
    prediction = predict_at(problem, plan, streams)
    goal = read_goal(problem, "throughput")
    return (math.inf,) if prediction is None else goal.measure(prediction)


def _find_change_over(problem: Problem, before: Plan, after: Plan, sizes: tuple[int, int]) -> int:
    """The least number of streams at which ``after`` is better, between two ``sizes`` of which
    it is so at the second alone."""
    low, high = sizes
    while high - low > 1:
        middle = (low + high) // 2
        if _rank(problem, after, middle) < _rank(problem, before, middle):
            high = middle
        else:
            low = middle
    return high


def _choose_overall(
    plans: Sequence[Plan], table: Mapping[int, Sequence[tuple[float, ...]]]
) -> Plan | None:
    """The plan of the least geometric means; how far each figure is from the best at its size
    changes nothing in their order."""
    means = [_mean([ranks[i] for ranks in table.values()]) for i in range(len(plans))]
    index = min(range(len(plans)), key=means.__getitem__)
    return plans[index] if means[index] < (math.inf,) else None


def _mean(ranks: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    if (math.inf,) in ranks:
        return (math.inf,)
    return tuple(math.fsum(map(math.log, figures)) for figures in zip(*ranks, strict=True))
