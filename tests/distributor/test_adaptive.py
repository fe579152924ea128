"""Plans by batch size: the better one for every number of streams, and where that changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import geometric_mean

import msgspec
import pytest

from partwise.cluster import LinkSpeed
from partwise.distributor import balanced, greedy
from partwise.distributor.adaptive import plan_adaptive, predict_at
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible, PlanError
from partwise.model import Model
from support.planning import GIB, make_cluster, pose


class Few:
    """One server for few streams, all of them for more."""

    NAME = "few"
    HELP = "for tests"

    def plan(self, problem: Problem) -> Plan:
        streams = problem.workload.streams
        strategy = greedy if streams < 8 else balanced
        note = f"made for {streams} streams"
        return msgspec.structs.replace(strategy.plan(problem), notes=(note,))


def problem_of(model: Model, memories: list[int]) -> Problem:
    """A second server that is slow, and far away."""
    far = LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=2e-3)
    cluster = replace(make_cluster([1e-3, 8e-4], memories), default_link=far)
    problem = pose(model, cluster)
    return replace(problem, workload=Workload(context_tokens=16, prefill_tokens=1))


def test_plans_change_over_where_the_second_becomes_better(model: Model) -> None:
    problem = problem_of(model, [GIB, GIB])
    found = plan_adaptive(problem, Few(), [64, 1, 8, 1])
    one, many = found.plans
    assert (len(one.parts), len(many.parts)) == (1, 2)
    assert one.notes == ("made for 1 streams",)
    [start] = found.change_overs
    assert 2 < start < 64
    for streams in range(1, 65):
        rates = [p.tokens_per_s for q in (one, many) if (p := predict_at(problem, q, streams))]
        assert found.plan_at(streams) is (many if streams >= start else one)
        # An odd stream leaves the second of two parts waiting: near the change both take turns.
        if abs(streams - start) > 4 or start - 2 < streams < start + 1:
            assert (rates[1] > rates[0]) == (streams >= start)
    assert found.plan_at(1000) is many


def test_spans_are_gapless_from_one_stream(model: Model) -> None:
    found = plan_adaptive(problem_of(model, [GIB, GIB]), Few(), [2, 64])
    assert found.spans[0].start == 1
    assert found.spans[-1].stop is None
    assert all(a.stop == b.start and a.plan != b.plan for a, b in pairwise(found.spans))
    assert found.change_overs == tuple(span.start for span in found.spans[1:])


def test_a_plan_that_stays_best_is_the_only_one(model: Model) -> None:
    found = plan_adaptive(problem_of(model, [GIB, GIB]), greedy, [1, 2, 64])
    assert (len(found.spans), found.change_overs) == (1, ())
    assert found.overall is found.plan_at(64)


def test_the_overall_plan_fits_every_batch_size(model: Model) -> None:
    problem = problem_of(model, [GIB, GIB])
    whole = predict_at(problem, greedy.plan(problem), 8)
    assert whole is not None
    # The first server holds the caches of 8 streams whole, no more.
    problem = problem_of(model, [whole.parts[0].memory_bytes, GIB])
    found = plan_adaptive(problem, Few(), [1, 12])
    one, many = found.plans
    assert predict_at(problem, one, 8) is not None
    assert predict_at(problem, one, 12) is None
    assert found.overall is many
    assert found.plan_at(8) is one or found.change_overs[0] <= 8


@pytest.mark.parametrize("streams", [(1, 2, 64), (1, 56, 64), (3, 40)])
def test_the_overall_plan_comes_nearest_to_the_best(model: Model, streams: tuple[int, ...]) -> None:
    problem = problem_of(model, [GIB, GIB])
    found = plan_adaptive(problem, Few(), streams)
    means = {}
    for plan in found.plans:
        shares = []
        for size in streams:
            rates = [p.tokens_per_s for q in found.plans if (p := predict_at(problem, q, size))]
            prediction = predict_at(problem, plan, size)
            assert prediction is not None
            shares.append(prediction.tokens_per_s / max(rates))
        means[plan] = geometric_mean(shares)
    assert len(means) == 2
    assert found.overall == max(means, key=means.__getitem__)


def test_batch_sizes_that_mean_nothing_and_that_fit_nowhere_are_named(model: Model) -> None:
    problem = problem_of(model, [GIB, GIB])
    for streams in ([], [0, 4]):
        with pytest.raises(PlanError, match=r"streams are \[.*\]: give batch sizes of at least 1"):
            plan_adaptive(problem, greedy, streams)
    with pytest.raises(Infeasible, match=r"for 4096 streams: .* left over"):
        plan_adaptive(problem_of(model, [100_000] * 2), greedy, [1, 4096])


def test_the_goal_decides_which_plan_serves_how_many_streams(model: Model) -> None:
    problem = problem_of(model, [GIB, GIB])
    one, many = plan_adaptive(problem, Few(), [1, 64]).plans
    for goal in ("latency", "fewest-servers"):
        asked = replace(problem, options={"goal": goal})
        found = plan_adaptive(asked, Few(), [1, 64])
        # The far server costs one stream a round trip: the plan of one part is faster for it.
        latencies = [p.latency_s for q in (one, many) if (p := predict_at(problem, q, 64))]
        assert latencies[0] < latencies[1]
        assert [len(found.plan_at(size).parts) for size in (1, 64)] == [1, 1]
        assert found.overall == found.plan_at(1)


def test_no_plan_is_taken_beyond_the_caches_asked_for(model: Model) -> None:
    problem = problem_of(model, [GIB, GIB])
    whole = predict_at(problem, greedy.plan(problem), 8)
    assert whole is not None
    limit = whole.parts[0].working_set_bytes
    hosts = tuple(replace(host, cache_bytes=limit) for host in problem.cluster.hosts)
    cluster = replace(problem.cluster, hosts=hosts)
    problem = replace(problem, cluster=cluster, options={"cache_fit": True})
    found = plan_adaptive(problem, Few(), [1, 12])
    one, many = found.plans
    assert predict_at(problem, one, 12) is None
    assert found.overall is many
    assert found.plan_at(12) is many
