"""Plans of several strategies for one problem, predicted and compared.

It makes no plan itself; which figure decides is the goal's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from partwise.distributor.cache_fit import find_cache_limits
from partwise.distributor.cost import Prediction, predict
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.errors import Infeasible, PlanError

Maker = Callable[[Problem], Plan | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A plan that fits, and what it is predicted to do."""

    plan: Plan
    prediction: Prediction

    def is_like(self, other: Contender) -> bool:
        """Whether both plans say the same, whatever made them."""
        return (self.plan.stages, self.plan.parts) == (other.plan.stages, other.plan.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to be best. The least ``measure`` wins, the first figure that differs; ``say`` has
    the first for people."""

    name: str
    measure: Callable[[Prediction], tuple[float, ...]]
    say: Callable[[Prediction], str]

    def rank(self, contender: Contender) -> tuple[float, ...]:
        """The less, the better."""
        return self.measure(contender.prediction)


def _say_latency(prediction: Prediction) -> str:
    return f"{1e3 * prediction.latency_s:,.4g} ms a token"


def _say_throughput(prediction: Prediction) -> str:
    return f"{prediction.tokens_per_s:,.4g} tokens/s"


def _say_servers(prediction: Prediction) -> str:
    count = len(prediction.parts)
    return f"{count} server{'s' * (count > 1)} and {_say_latency(prediction)}"


GOALS: Mapping[str, Goal] = {
    goal.name: goal
    for goal in (
        Goal(
            name="latency",
            measure=lambda p: (p.latency_s, 1 / p.tokens_per_s, len(p.parts)),
            say=_say_latency,
        ),
        Goal(
            name="throughput",
            measure=lambda p: (1 / p.tokens_per_s, p.latency_s, len(p.parts)),
            say=_say_throughput,
        ),
        Goal(
            name="fewest-servers",
            measure=lambda p: (len(p.parts), p.latency_s, 1 / p.tokens_per_s),
            say=_say_servers,
        ),
    )
}


def read_goal(problem: Problem, default: str = "latency") -> Goal:
    """The goal that the problem's options name; ``default`` where they name none.

    Raises:
        PlanError: it is no goal.
    """
    name = problem.options.get("goal", default)
    if not isinstance(name, str) or name not in GOALS:
        raise PlanError(f"the goal {name!r} is not known: give one of {', '.join(GOALS)}")
    return GOALS[name]


def try_makers(problem: Problem, makers: Iterable[Maker]) -> list[Plan]:
    """The plans of those makers that find one."""
    plans = []
    for make in makers:
        try:
            plan = make(problem)
        except Infeasible:
            continue
        plans += [plan] if plan else []
    return plans


def contend(problem: Problem, plans: Iterable[Plan]) -> list[Contender]:
    """The plans that fit the caches, where that is asked, with their predictions."""
    limits = find_cache_limits(problem)
    room = dict(zip(problem.servers, limits, strict=True)) if limits else {}
    contenders = []
    for plan in plans:
        prediction = predict(plan, problem.model, problem.cluster, problem.workload)
        if all(p.working_set_bytes <= room.get(p.server, inf) for p in prediction.parts):
            contenders.append(Contender(plan=plan, prediction=prediction))
    return contenders
