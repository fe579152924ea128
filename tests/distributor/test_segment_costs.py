"""Costs of runs of layers: as a plan of such parts is predicted, and monotone."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from partwise.distributor.cost import predict
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Link, Member, ModelIdentity, Part, Plan, Stage
from partwise.distributor.range_max import RangeMax
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.workload import Workload
from partwise.model import Model
from support.clusters import random_cluster, random_workload
from support.planning import make_cluster

Synthesise = Callable[[random.Random], Any]


def cut_plan(model: Model, cuts: list[int], servers: list[str], mlp_sparsity: float = 0.0) -> Plan:
    """Layers between ``cuts`` whole on ``servers``."""
    stages = tuple(
        Stage(start=start, stop=stop, members=(Member(part=f"p{i}"),))
        for i, (start, stop) in enumerate(pairwise(cuts))
    )
    return Plan(
        strategy="test",
        model=ModelIdentity(
            name=model.name,
            architecture=model.architecture,
            fingerprint=model.fingerprint,
            num_layers=len(model.layers),
        ),
        stages=stages,
        parts=tuple(
            Part(name=f"p{i}", server=server, mlp_sparsity=mlp_sparsity)
            for i, server in enumerate(servers)
        ),
        links=tuple(Link(source=f"p{i}", target=f"p{i + 1}") for i in range(len(servers) - 1)),
        placements=place_parameters(model, stages),
    )


@pytest.mark.parametrize("seed", range(30))
def test_a_segment_costs_what_a_plan_of_it_is_predicted_to(
    seed: int, make_synthetic: Synthesise
) -> None:
    rng = random.Random(seed)
    model, cluster = make_synthetic(rng).model, random_cluster(rng)
    workload = random_workload(rng)
    count = min(len(cluster.servers), len(model.layers))
    names = [server.name for server in rng.sample(cluster.servers, count)]
    cuts = [0, *sorted(rng.sample(range(1, len(model.layers)), count - 1)), len(model.layers)]
    costs = SegmentCosts(model, cluster, workload, names)
    plan = cut_plan(model, cuts, names, workload.mlp_sparsity)
    prediction = predict(plan, model, cluster, workload)
    for i, (start, stop) in enumerate(pairwise(cuts)):
        assert costs.seconds(i, start, stop) == pytest.approx(prediction.parts[i].compute_s)
        num_bytes = costs.bytes(start, stop, workload.count_in_flight(i, count))
        assert num_bytes == pytest.approx(prediction.parts[i].memory_bytes, abs=2 * count)


@pytest.mark.parametrize("seed", range(30))
def test_more_layers_never_cost_less(seed: int, make_synthetic: Synthesise) -> None:
    rng = random.Random(seed)
    model, cluster = make_synthetic(rng).model, random_cluster(rng)
    costs = SegmentCosts(model, cluster, random_workload(rng))
    num_layers = len(model.layers)
    for server in range(len(cluster.servers)):
        for start in range(num_layers):
            previous = costs.seconds(server, start, start), costs.bytes(start, start)
            assert previous == (0, 0)
            for stop in range(start + 1, num_layers + 1):
                now = costs.seconds(server, start, stop), costs.bytes(start, stop)
                assert now[0] >= previous[0]
                assert now[1] >= previous[1]
                assert costs.seconds(server, start + 1, stop) <= now[0]
                assert costs.bytes(start + 1, stop) <= now[1]
                previous = now


@pytest.mark.parametrize("seed", range(40))
def test_the_furthest_stop_is_that_of_a_search_one_by_one(
    seed: int, make_synthetic: Synthesise
) -> None:
    rng = random.Random(seed)
    model, cluster = make_synthetic(rng).model, random_cluster(rng)
    workload = random_workload(rng)
    costs = SegmentCosts(model, cluster, workload)
    num_layers, num_servers = len(model.layers), len(cluster.servers)
    for _ in range(20):
        server, start = rng.randrange(len(cluster.servers)), rng.randrange(num_layers + 1)
        whole = costs.seconds(server, 0, num_layers)
        limit_s = rng.choice([rng.random() * whole, costs.seconds(server, start, num_layers), 0.0])
        memory = costs.memory_limits[server] = rng.randint(0, 2 * costs.bytes(0, num_layers))
        stops = range(start, num_layers + 1)
        kept = workload.count_in_flight(server, num_servers)
        fitting = [
            stop
            for stop in stops
            if costs.seconds(server, start, stop) <= limit_s
            and costs.bytes(start, stop, kept) <= memory
        ]
        assert costs.max_stop(server, start, limit_s) == fitting[-1]
        assert len(fitting) == fitting[-1] - start + 1


def test_servers_in_any_order_have_room_for_what_the_first_keeps(model: Model) -> None:
    cluster = make_cluster([1.0] * 3, [1 << 30] * 3)
    workload = Workload(is_training=True, streams=8, sequences=2, context_tokens=16)
    ordered = SegmentCosts(model, cluster, workload)
    free = SegmentCosts(model, cluster, workload, has_order=False)
    for server, num_kept in enumerate((3, 2, 1)):
        for costs, needed in (
            (ordered, ordered.bytes(1, 3, num_kept)),
            (free, free.bytes(1, 3, 3)),
        ):
            costs.memory_limits[server] = needed
            assert costs.fits(server, 1, 3)
            costs.memory_limits[server] = needed - 1
            assert not costs.fits(server, 1, 3)
    saved = ordered.bytes(1, 3, 2) - ordered.bytes(1, 3)
    assert saved > 0
    assert ordered.bytes(1, 3, 3) == ordered.bytes(1, 3) + 2 * saved


def test_tied_layers_in_one_segment_take_their_bytes_once(model: Model) -> None:
    costs = SegmentCosts(model, random_cluster(random.Random(1)), Workload())
    head = len(model.layers) - 1
    apart = costs.bytes(0, head) + costs.bytes(head, head + 1)
    whole = costs.bytes(0, head + 1)
    table_bytes = 30 * 16 * 4
    largest = [costs.bytes(i, i + 1) for i in (1, head)]
    assert apart - whole >= table_bytes
    assert whole >= max(largest)


def test_the_largest_of_any_run_is_found() -> None:
    rng = random.Random(0)
    for count in (1, 2, 3, 7, 8, 20):
        values = [rng.randint(0, 99) for _ in range(count)]
        table = RangeMax(values)
        for start in range(count):
            for stop in range(start + 1, count + 1):
                assert table.largest(start, stop) == max(values[start:stop])
