"""Small clusters, written down apart from the presets."""

from __future__ import annotations

import pytest

from partwise.cluster import Cluster, Curve, Host, LinkSpeed, Rates, Server

GIB = 1 << 30


def make_host(name: str, **changes: object) -> Host:
    """A host of 2 cores whose cache ends at 32 MiB."""
    values: dict[str, object] = {
        "name": name,
        "cores": 2,
        "memory_bytes": 16 * GIB,
        "one_core_bytes_per_s": Curve(x=(1e6, 12e6, 32e6), y=(73e9, 73e9, 25e9)),
        "all_cores_bytes_per_s": Curve(x=(1e6, 12e6, 32e6), y=(140e9, 140e9, 40e9)),
        "rates": {
            "fp32": Rates(
                one_core_macs_per_s=Curve(x=(1, 16), y=(6e9, 25e9)),
                all_cores_macs_per_s=Curve(x=(1, 16), y=(10e9, 48e9)),
            )
        },
        "call_overhead_s": 150e-6,
        "layer_overhead_s": 1.7e-6,
    }
    return Host(**values | changes)  # type: ignore[arg-type]


@pytest.fixture
def cluster() -> Cluster:
    """Two hosts, three servers, a link of the hosts and one of two servers."""
    return Cluster(
        hosts=(make_host("lab"), make_host("attic", watts=45.5, cache_bytes=12 << 20)),
        servers=(
            Server(name="lab-0", host="lab", threads=1, memory_bytes=7 * GIB),
            Server(name="lab-1", host="lab", threads=1, memory_bytes=7 * GIB),
            Server(name="attic-0", host="attic", threads=2, memory_bytes=14 * GIB),
        ),
        default_link=LinkSpeed(bandwidth_bytes_per_s=1.25e9, round_trip_s=100e-6),
        loopback_link=LinkSpeed(bandwidth_bytes_per_s=4e9, round_trip_s=30e-6),
        links={
            ("lab", "attic"): LinkSpeed(bandwidth_bytes_per_s=20e6, round_trip_s=3e-3),
            ("attic-0", "lab-1"): LinkSpeed(bandwidth_bytes_per_s=1e8, round_trip_s=0.0),
        },
    )
