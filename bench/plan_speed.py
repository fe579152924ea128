"""How long planning takes: balanced over many layers and servers, auto for a large model, and
what the cubic table of the layer-wise seed would take.

Processor seconds of this process: the machine is shared, and planning does not wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import numpy as np

from partwise.distributor.problem import Problem
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.model.description import Model
from support.large import describe_llama, llama_405b, mix_servers

SEED_LAYERS = 200
"""Of the seed's table: its time grows with the cube, 1,000 layers would take over a minute."""


def measure_s(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def pose(model: Model, num_servers: int, **options: object) -> Problem:
    cluster = mix_servers(num_servers)
    return Problem(
        model=model,
        cluster=cluster,
        workload=Workload(context_tokens=128, prefill_tokens=16),
        servers=tuple(server.name for server in cluster.servers),
        options=options,
    )


def make_model(num_layers: int) -> Model:
    """So many layers in all: embedding, blocks, norm and head."""
    model = describe_llama(
        num_blocks=num_layers - 3, hidden=1024, inner=4096, heads=16, kv_heads=8, vocabulary=32000
    )
    assert len(model.layers) == num_layers
    return model


def time_balanced(num_layers: int, num_servers: int) -> float:
    """The whole plan in the servers' order, verified; the model is described beforehand."""
    problem = pose(make_model(num_layers), num_servers, keep_order=True)
    return measure_s(lambda: STRATEGIES["balanced"].plan(problem))


def time_auto(goal: str, precision: str, streams: int) -> float:
    """The 405B model on 64 unequal servers."""
    problem = pose(llama_405b(), 64, goal=goal)
    workload = Workload(precision=precision, streams=streams)
    return measure_s(lambda: STRATEGIES["auto"].plan(replace(problem, workload=workload)))


def time_table(num_layers: int, num_servers: int) -> tuple[float, float, float]:
    """Seconds of the seed's table for equal servers, what it finds, and what `balanced` finds."""
    problem = pose(make_model(num_layers), num_servers)
    cluster = problem.cluster
    equal = replace(
        cluster,
        hosts=tuple(replace(cluster.hosts[0], name=host.name) for host in cluster.hosts),
        servers=tuple(
            replace(cluster.servers[0], name=s.name, host=s.host) for s in cluster.servers
        ),
    )
    costs = SegmentCosts(problem.model, equal, problem.workload, problem.servers)
    found: list[float] = []
    seconds = measure_s(lambda: found.append(fill_table(costs, num_layers, num_servers)))
    plan = STRATEGIES["balanced"].plan(replace(problem, cluster=equal))
    slowest_s = max(costs.seconds(0, stage.start, stage.stop) for stage in plan.stages)
    return seconds, found[0], slowest_s


def fill_table(costs: SegmentCosts, num_layers: int, num_servers: int) -> float:
    """The slowest part of the best cut by the textbook's dynamic program: for each server, each
    stop and each start; O(layers² servers), cubic where servers grow with layers."""
    runs = [
        [costs.seconds(0, start, stop) for stop in range(num_layers + 1)]
        for start in range(num_layers)
    ]
    best = list(accumulate(runs[0], max))
    for _ in range(num_servers - 1):
        longer = best[:]
        for stop in range(1, num_layers + 1):
            for start in range(stop):
                slowest_s = max(best[start], runs[start][stop])
                longer[stop] = min(longer[stop], slowest_s)
        best = longer
    assert np.isfinite(best[-1])
    return best[-1]
