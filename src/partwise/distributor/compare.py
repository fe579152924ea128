"""All strategies side by side for one problem, with one machine among them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from partwise.distributor.contest import GOALS
from partwise.distributor.cost import Prediction, list_unrated, one_machine, predict
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.verdict import ONLY_WAY, Verdict, judge, say_unrated
from partwise.errors import PlanError

ONE_MACHINE = "one machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A verified plan, what it costs, and whether it beats one machine."""

    plan: Plan
    prediction: Prediction
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What one strategy, or one machine, comes to.

    One machine has a ``prediction`` alone. Without one, ``obstacle`` says in one line what
    stands against it.
    """

    name: str
    prediction: Prediction | None = None
    planned: Planned | None = None
    obstacle: str = ""


def plan_with(problem: Problem, name: str) -> Planned:
    """The plan of the strategy called ``name``.

    Raises:
        PlanError: the strategy makes no plan, or a host gives no rates for its precision.
    """
    return evaluate(problem, STRATEGIES[name].plan(problem))


def evaluate(problem: Problem, plan: Plan) -> Planned:
    """A verified ``plan``, what it costs for the problem's workload, and the verdict on it.

    Raises:
        PlanError: a host gives no rates for a part's precision.
    """
    model, cluster, workload = problem.model, problem.cluster, problem.workload
    return Planned(
        plan=plan,
        prediction=predict(plan, model, cluster, workload),
        verdicts=judge(plan, model, cluster, workload),
    )


def compare(problem: Problem, goal: str, names: Iterable[str] = STRATEGIES) -> list[Candidate]:
    """A candidate for each strategy of ``names`` and for one machine: best first by ``goal``
    (`contest.py`), those that come to nothing last. The one machine is the best by ``goal``.
    """
    found = [_try_one_machine(problem, goal), *(_try_strategy(problem, name) for name in names)]

    def place(candidate: Candidate) -> tuple[float, ...]:
        # Above every figure where there is none.
        prediction = candidate.prediction
        return (math.inf,) if prediction is None else GOALS[goal].measure(prediction)

    return sorted(found, key=place)


def _try_one_machine(problem: Problem, goal: str) -> Candidate:
    model, cluster, workload = problem.model, problem.cluster, problem.workload
    prediction = one_machine(model, cluster, workload, GOALS[goal].measure)
    unrated = list_unrated(cluster, workload.precision)
    left_out = f" ({say_unrated(unrated, workload.precision)})" if unrated else ""
    obstacle = ONLY_WAY + left_out if prediction is None else ""
    return Candidate(name=ONE_MACHINE, prediction=prediction, obstacle=obstacle)


def _try_strategy(problem: Problem, name: str) -> Candidate:
    try:
        planned = plan_with(problem, name)
    except PlanError as exc:
        return Candidate(name=name, obstacle=str(exc))
    return Candidate(name=name, prediction=planned.prediction, planned=planned)
