"""Auto: the best predicted for the goal, and one line on why it won."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from partwise.cluster import Curve, LinkSpeed, Rates
from partwise.distributor.compare import ONE_MACHINE, compare
from partwise.distributor.contest import GOALS
from partwise.distributor.cost import one_machine, predict
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.verify import verify_plan
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible, PlanError
from partwise.model import Model
from support.clusters import random_cluster
from support.large import llama_405b, mix_servers
from support.planning import GIB, make_cluster, pose

OTHERS = ("greedy", "balanced", "count", "compute", "latency", "throughput")


def list_others(problem: Problem) -> list[Plan]:
    plans = []
    for name in OTHERS:
        try:
            plans.append(STRATEGIES[name].plan(problem))
        except Infeasible:
            continue
    return plans


def measure(goal: str, plan: Plan, problem: Problem) -> float:
    prediction = predict(plan, problem.model, problem.cluster, problem.workload)
    return GOALS[goal].measure(prediction)[0]


@pytest.mark.parametrize("goal", GOALS)
def test_no_strategy_is_predicted_better_for_the_goal(
    goal: str, make_synthetic: Callable[[random.Random], Any]
) -> None:
    rng = random.Random(5)
    num_planned = 0
    for _ in range(50):
        cluster = random_cluster(rng)
        problem = Problem(
            model=make_synthetic(rng).model,
            cluster=cluster,
            workload=Workload(context_tokens=16, prefill_tokens=4, streams=rng.randint(1, 4)),
            servers=tuple(server.name for server in cluster.servers),
            options={"goal": goal},
        )
        others = list_others(problem)
        if not others:
            with pytest.raises(Infeasible, match="needed is"):
                STRATEGIES["auto"].plan(problem)
            continue
        found = STRATEGIES["auto"].plan(problem)
        best = min(measure(goal, plan, problem) for plan in others)
        assert measure(goal, found, problem) <= best
        assert found.strategy in OTHERS
        assert found.notes[0].startswith(f"{found.strategy} wins for {goal} with ")
        num_planned += 1
    assert num_planned > 15


def holds(problem: Problem, servers: tuple[str, ...]) -> bool:
    """Whether some plan is found on just these servers."""
    try:
        STRATEGIES["latency"].plan(replace(problem, servers=servers))
    except Infeasible:
        return False
    return True


def test_fewest_servers_are_no_more_than_any_choice_needs(
    make_synthetic: Callable[[random.Random], Any],
) -> None:
    rng = random.Random(9)
    sizes = []
    for _ in range(40):
        memories = [rng.choice([12_000, 30_000, 60_000]) for _ in range(4)]
        problem = pose(make_synthetic(rng).model, make_cluster([1.0, 2.0, 1.0, 2.0], memories))
        problem = replace(problem, options={"goal": "fewest-servers"})
        least = next(
            (
                size
                for size in range(1, 5)
                if any(holds(problem, chosen) for chosen in combinations(problem.servers, size))
            ),
            None,
        )
        if least is not None:
            assert len(STRATEGIES["auto"].plan(problem).parts) == least
            sizes.append(least)
    assert {1, 2, 3} <= set(sizes)


def test_the_winner_is_compared_with_the_runner_up_and_one_machine(model: Model) -> None:
    problem = pose(model, make_cluster([1e-3, 2e-3], [GIB] * 2))
    note = STRATEGIES["auto"].plan(problem).notes[0]
    assert "the runner-up " in note
    assert "one machine has " in note
    assert note.count(" ms a token") == 3
    small = pose(model, make_cluster([1e-3, 2e-3], [20_000] * 2))
    assert "no one machine holds the model" in STRATEGIES["auto"].plan(small).notes[0]


def test_the_one_machine_of_the_note_is_the_best_for_the_goal(model: Model) -> None:
    """s0 reads fast, s1 computes fast: each is the best single one for another goal."""
    cluster = make_cluster([1.0, 1.0], [GIB] * 2)
    reads, computes = (
        {
            "one_core_bytes_per_s": Curve(x=(1.0,), y=(bytes_per_s,)),
            "rates": {"fp32": Rates(one_core_macs_per_s=macs, all_cores_macs_per_s=macs)},
        }
        for bytes_per_s, macs in (
            (1e8, Curve(x=(1.0,), y=(1e8,))),
            (2e7, Curve(x=(1.0,), y=(1e12,))),
        )
    )
    hosts = (replace(cluster.hosts[0], **reads), replace(cluster.hosts[1], **computes))
    link = LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=10.0)
    slow = replace(cluster, hosts=hosts, default_link=link)
    problem = replace(
        pose(model, slow, goal="latency"), workload=Workload(streams=64, context_tokens=2)
    )
    latency = GOALS["latency"].measure
    alone = one_machine(model, slow, problem.workload, latency)
    other = one_machine(model, slow, problem.workload)
    assert alone is not None
    assert other is not None
    assert alone.parts[0].server != other.parts[0].server
    said = f"one machine has {GOALS['latency'].say(alone)}"
    assert said in STRATEGIES["auto"].plan(problem).notes[0]
    (row,) = (c for c in compare(problem, "latency", ["greedy"]) if c.name == ONE_MACHINE)
    assert row.prediction == alone


def test_a_goal_that_is_none_is_named(model: Model) -> None:
    problem = pose(model, make_cluster([1.0], [GIB]), goal="cheapest")
    with pytest.raises(PlanError, match="goal 'cheapest' is not known: give one of latency, thr"):
        STRATEGIES["auto"].plan(problem)


@pytest.mark.quiet
def test_a_405b_model_on_64_mixed_servers_takes_seconds() -> None:
    model, cluster = llama_405b(), mix_servers(64)
    assert model.num_parameters == pytest.approx(405.8e9, rel=1e-3)
    problem = Problem(
        model=model,
        cluster=cluster,
        workload=Workload(precision="bf16"),
        servers=tuple(server.name for server in cluster.servers),
    )
    started = time.process_time()
    plan = STRATEGIES["auto"].plan(problem)
    assert time.process_time() - started < 5
    verify_plan(plan, model, problem.servers)


def test_fewest_servers_are_fewest_where_memory_and_cache_are_two_budgets(
    make_synthetic: Callable[[random.Random], Any],
) -> None:
    rng = random.Random(2)
    # Over such links the least latency takes all servers: fewer are to be searched for.
    link = LinkSpeed(bandwidth_bytes_per_s=1e11, round_trip_s=1e-9)
    sizes = []
    for _ in range(80):
        model = make_synthetic(rng).model
        memories = [rng.choice([20_000, 60_000, 200_000, 1 << 20]) for _ in range(4)]
        cluster = make_cluster([rng.choice([1.0, 2.0]) for _ in range(4)], memories)
        hosts = tuple(
            replace(host, cache_bytes=rng.choice([5_000, 20_000, 60_000, 200_000]))
            for host in cluster.hosts
        )
        cluster = replace(cluster, hosts=hosts, default_link=link)
        problem = pose(model, cluster, goal="fewest-servers", cache_fit=True)
        try:
            found = len(STRATEGIES["auto"].plan(problem).parts)
        except Infeasible:
            continue
        fewer = combinations(problem.servers, found - 1)
        assert found == 1 or not any(holds(problem, few) for few in fewer)
        sizes.append(found)
    assert len(set(sizes)) > 2
