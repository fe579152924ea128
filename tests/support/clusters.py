"""Random clusters whose servers share hosts, and random workloads."""

from __future__ import annotations

import random

from partwise.cluster import Cluster, Curve, Host, LinkSpeed, Rates, Server
from partwise.distributor.workload import Workload


def random_curve(rng: random.Random, low: float, high: float, y: float) -> Curve:
    x = sorted(rng.uniform(low, high) for _ in range(rng.randint(1, 4)))
    return Curve(x=tuple(x), y=tuple(y * rng.uniform(0.2, 1) for _ in x))


def random_cluster(rng: random.Random) -> Cluster:
    """Up to 5 servers on up to 3 hosts, with curves that are not even monotone."""
    hosts = []
    for i in range(rng.randint(1, 3)):
        rates = Rates(
            one_core_macs_per_s=random_curve(rng, 1, 20, 3e7),
            all_cores_macs_per_s=random_curve(rng, 1, 20, 6e7),
        )
        hosts.append(
            Host(
                name=f"h{i}",
                cores=rng.randint(1, 8),
                memory_bytes=1 << 30,
                one_core_bytes_per_s=random_curve(rng, 1e3, 1e5, 1e8),
                all_cores_bytes_per_s=random_curve(rng, 1e3, 1e5, 2e8),
                rates={"fp32": rates},
                call_overhead_s=rng.choice([0, 1e-5]),
                layer_overhead_s=rng.choice([0, 1e-6, 1e-3]),
            )
        )
    servers = tuple(
        Server(
            name=f"s{i}",
            host=rng.choice(hosts).name,
            threads=rng.randint(1, 4),
            memory_bytes=rng.randint(1, 200_000),
        )
        for i in range(rng.randint(1, 5))
    )
    link = LinkSpeed(bandwidth_bytes_per_s=1e6, round_trip_s=1e-4)
    return Cluster(hosts=tuple(hosts), servers=servers, default_link=link)


def random_workload(rng: random.Random) -> Workload:
    return Workload(
        streams=rng.choice([1, 2, 3, 8]),
        context_tokens=rng.choice([1, 8, 50]),
        sequences=rng.randint(1, 4),
        prefill_tokens=rng.choice([1, 16]),
        mlp_sparsity=rng.choice([0.0, 0.0, 0.3]),
        is_training=rng.random() < 0.2,
        has_checkpointing=rng.random() < 0.5,
    )
