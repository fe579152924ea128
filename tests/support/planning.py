"""Runs with known costs, small clusters and random problems for tests of strategies."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from partwise.cluster.description import Cluster, Curve, Host, LinkSpeed, Rates, Server
from partwise.distributor.min_max import RunCosts
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.model.description import Model

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Instance:
    """Layers of known work over servers of known speed, overhead and memory."""

    works: tuple[float, ...]
    speeds: tuple[float, ...]
    overheads_s: tuple[float, ...]
    memories: tuple[float, ...]

    @property
    def costs(self) -> RunCosts:
        sums = [0.0, *accumulate(self.works)]
        num_layers = len(self.works)

        def seconds(server: int, start: int, stop: int) -> float:
            if stop <= start:
                return 0.0
            return (sums[stop] - sums[start]) / self.speeds[server] + self.overheads_s[server]

        def max_stop(server: int, start: int, limit_s: float) -> int:
            stop = start
            while (
                stop < num_layers
                and self.fits(server, start, stop + 1)
                and seconds(server, start, stop + 1) <= limit_s
            ):
                stop += 1
            return stop

        return RunCosts(
            num_layers=num_layers,
            num_servers=len(self.speeds),
            max_stop=max_stop,
            seconds=seconds,
        )

    @property
    def kinds(self) -> list[int]:
        rows = list(zip(self.speeds, self.overheads_s, self.memories, strict=True))
        return [rows.index(row) for row in rows]

    def fits(self, server: int, start: int, stop: int) -> bool:
        return stop - start <= self.memories[server]


def random_instance(rng: random.Random, num_layers: int, num_servers: int) -> Instance:
    """Layers of few different works or of many; some servers hold few layers, some none."""
    is_coarse = rng.random() < 0.5
    works = [
        rng.choice([0.0, 1.0, 1.0, 2.0, 7.0]) if is_coarse else rng.random() ** 3
        for _ in range(num_layers)
    ]
    return Instance(
        works=tuple(works),
        speeds=tuple(rng.choice([1.0, 2.0, 3.5]) for _ in range(num_servers)),
        overheads_s=tuple(rng.choice([0.0, 0.5]) for _ in range(num_servers)),
        memories=tuple(rng.choice([math.inf, math.inf, 3, 0]) for _ in range(num_servers)),
    )


def least_by_table(instance: Instance, order: Sequence[int]) -> float | None:
    """The least slowest run in this order, from a table of all stops: O(layers² servers)."""
    costs = instance.costs
    best = {0: 0.0}
    for server in order:
        longer: dict[int, float] = {}
        for start, slowest_s in best.items():
            for stop in range(start, costs.num_layers + 1):
                if stop > start and not instance.fits(server, start, stop):
                    break
                value_s = max(slowest_s, costs.seconds(server, start, stop))
                longer[stop] = min(longer.get(stop, math.inf), value_s)
        best = longer
    return best.get(costs.num_layers)


def make_host(name: str, speed: float = 1.0, **changes: Any) -> Host:
    """A host of 4 cores, whose bandwidth falls where the working set leaves its cache."""
    values: dict[str, Any] = {
        "cores": 4,
        "memory_bytes": 64 * GIB,
        "one_core_bytes_per_s": Curve(x=(1e5, 1e8), y=(7e10 * speed, 2e10 * speed)),
        "all_cores_bytes_per_s": Curve(x=(1e5, 1e8), y=(2e11 * speed, 4e10 * speed)),
        "rates": {
            "fp32": Rates(
                one_core_macs_per_s=Curve(x=(1.0, 128.0), y=(1e10 * speed, 3e10 * speed)),
                all_cores_macs_per_s=Curve(x=(1.0, 128.0), y=(3e10 * speed, 1e11 * speed)),
            )
        },
        "call_overhead_s": 1e-5,
        "cache_bytes": 1 << 24,
    }
    return Host(name=name, **(values | changes))


def make_cluster(speeds: Sequence[float], memories_bytes: Sequence[int], **changes: Any) -> Cluster:
    """A server s0, s1, ... on a host of its own for each speed and memory."""
    names = [f"s{i}" for i in range(len(speeds))]
    return Cluster(
        hosts=tuple(
            make_host(f"h-{name}", speed, **changes)
            for name, speed in zip(names, speeds, strict=True)
        ),
        servers=tuple(
            Server(name=name, host=f"h-{name}", threads=1, memory_bytes=memory_bytes)
            for name, memory_bytes in zip(names, memories_bytes, strict=True)
        ),
        default_link=LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=1e-4),
    )


def make_problem(model: Model, num_servers: int, /, **options: Any) -> Problem:
    """Equal servers with memory in plenty."""
    cluster = make_cluster([1.0] * num_servers, [GIB] * num_servers)
    return pose(model, cluster, **options)


def plan_with(model: Model, strategy: str, num_servers: int, **options: Any) -> Plan:
    """The plan of a strategy for ``num_servers`` equal servers s0, s1, ..."""
    return STRATEGIES[strategy].plan(make_problem(model, num_servers, **options))


def pose(model: Model, cluster: Cluster, /, **options: Any) -> Problem:
    return Problem(
        model=model,
        cluster=cluster,
        workload=Workload(context_tokens=16, prefill_tokens=4),
        servers=tuple(server.name for server in cluster.servers),
        options=options,
    )
