"""Strategies side by side: all are there, one machine is among them, the best is first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from partwise.distributor.compare import ONE_MACHINE, compare, plan_with
from partwise.distributor.contest import GOALS
from partwise.distributor.cost import one_machine, predict
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.verdict import ONLY_WAY, judge
from partwise.errors import PlanError
from partwise.model import Model
from support.planning import make_cluster, make_problem, pose


@pytest.fixture
def problem(model: Model) -> Problem:
    """Three unequal servers that serve 4 streams; no strategy has options."""
    cluster = make_cluster([1.0, 2.0, 0.5], [1 << 30] * 3)
    asked = pose(model, cluster)
    return replace(asked, workload=replace(asked.workload, streams=4))


@pytest.mark.parametrize("goal", GOALS)
def test_the_best_comes_first_and_those_without_a_plan_last(problem: Problem, goal: str) -> None:
    found = compare(problem, goal)
    assert {candidate.name for candidate in found} == {*STRATEGIES, ONE_MACHINE}
    predictions = [candidate.prediction for candidate in found]
    measure = GOALS[goal].measure
    ranks = [measure(prediction) for prediction in predictions if prediction is not None]
    assert ranks == sorted(ranks)
    assert None not in predictions[: len(ranks)]
    for candidate in found[len(ranks) :]:
        assert candidate.planned is None
        assert "\n" not in candidate.obstacle
        assert candidate.obstacle


def test_each_candidate_is_what_its_strategy_plans(problem: Problem) -> None:
    for candidate in compare(problem, "latency", ["greedy", "count"]):
        if candidate.name == ONE_MACHINE:
            alone = one_machine(problem.model, problem.cluster, problem.workload)
            assert candidate.prediction == alone
            continue
        plan = STRATEGIES[candidate.name].plan(problem)
        asked = plan, problem.model, problem.cluster, problem.workload
        assert candidate.planned is not None
        assert candidate.planned.plan == plan
        assert candidate.planned.prediction == candidate.prediction == predict(*asked)
        assert candidate.planned.verdicts == judge(*asked)


def test_a_strategy_without_its_options_says_what_it_needs(problem: Problem) -> None:
    by_name = {candidate.name: candidate for candidate in compare(problem, "latency")}
    assert by_name["percentage"].obstacle == "percentages are None: give 3, for s0, s1, s2"
    with pytest.raises(PlanError, match="percentages are None"):
        plan_with(problem, "percentage")


def test_where_no_machine_holds_the_model_its_row_says_so(model: Model) -> None:
    problem = make_problem(model, 1)
    whole = one_machine(model, problem.cluster, problem.workload)
    assert whole is not None
    less = whole.parts[0].memory_bytes - 1
    small = replace(problem.cluster.servers[0], memory_bytes=less)
    cluster = replace(problem.cluster, servers=(small,))
    (alone, greedy) = compare(replace(problem, cluster=cluster), "latency", ["greedy"])
    assert (alone.name, alone.prediction, alone.obstacle) == (ONE_MACHINE, None, ONLY_WAY)
    assert "iB more" in greedy.obstacle
