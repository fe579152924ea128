"""Hosts, servers and links: what they answer, and what they refuse."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from partwise.cluster import Cluster, Curve, LinkSpeed, Server
from partwise.errors import ClusterError


def test_a_curve_is_linear_in_log_x_between_its_points() -> None:
    curve = Curve(x=(1, 100), y=(10, 30))
    assert curve.at(10) == pytest.approx(20)
    assert curve.at(1) == 10
    assert curve.at(100) == 30


def test_a_curve_is_flat_outside_its_points() -> None:
    curve = Curve(x=(1, 100), y=(10, 30))
    assert (curve.at(0.001), curve.at(0), curve.at(1e12)) == (10, 10, 30)
    assert Curve(x=(5,), y=(7,)).at(1) == Curve(x=(5,), y=(7,)).at(9) == 7


def test_monotone_curves_lie_over_the_measured_one_and_touch_it() -> None:
    rng = random.Random(0)
    for _ in range(50):
        count = rng.randint(1, 8)
        curve = Curve(
            x=tuple(sorted(rng.sample(range(1, 1000), count))),
            y=tuple(rng.uniform(1, 9) for _ in range(count)),
        )
        falling, rising = curve.non_increasing(), curve.non_decreasing()
        points = [math.exp(rng.uniform(-1, 8)) for _ in range(20)]
        for x in points:
            assert min(falling.at(x), rising.at(x)) >= curve.at(x) - 1e-12
        for low, high in zip(sorted(points), sorted(points)[1:], strict=False):
            assert falling.at(low) >= falling.at(high)
            assert rising.at(low) <= rising.at(high)
        assert falling.y[0] == rising.y[-1] == max(curve.y)
        assert (falling.y[-1], rising.y[0]) == (curve.y[-1], curve.y[0])


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        ((), (), "0 points"),
        ((1, 2), (3,), "2 points and 1 values"),
        ((2, 1), (3, 3), "do not ascend"),
        ((1, 1), (3, 3), "do not ascend"),
        ((1, 2), (3, 0), "holds 0"),
        ((1, 2), (3, -1), "holds -1"),
        ((1, 2), (3, math.nan), "holds nan"),
        ((1, math.inf), (3, 3), "holds inf"),
    ],
)
def test_a_curve_refuses(x: tuple[float, ...], y: tuple[float, ...], text: str) -> None:
    with pytest.raises(ClusterError, match=text):
        Curve(x=x, y=y)


def test_the_nearest_link_joins_two_servers(cluster: Cluster) -> None:
    own = cluster.links["attic-0", "lab-1"]
    assert cluster.link("attic-0", "lab-1") is cluster.link("lab-1", "attic-0") is own
    assert cluster.link("attic-0", "lab-0") is cluster.links["lab", "attic"]
    assert cluster.link("lab-0", "lab-1") is cluster.loopback_link
    without = replace(cluster, links={}, loopback_link=None)
    assert without.link("lab-0", "lab-1") is without.link("lab-0", "attic-0")
    assert without.link("lab-0", "lab-1") is without.default_link


def test_a_server_finds_its_host(cluster: Cluster) -> None:
    assert cluster.host_of("attic-0").name == "attic"
    with pytest.raises(ClusterError, match="no server 'lab-9': its servers are lab-0, lab-1"):
        cluster.host_of("lab-9")


def test_a_transfer_takes_half_a_round_trip_and_its_bytes() -> None:
    link = LinkSpeed(bandwidth_bytes_per_s=1e6, round_trip_s=0.004)
    assert link.transfer_s(5000) == pytest.approx(0.002 + 0.005)


def test_names_are_given_once(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="the server 'lab-0' is given twice"):
        replace(cluster, servers=cluster.servers + cluster.servers[:1])
    with pytest.raises(ClusterError, match="the host 'lab' is given twice"):
        replace(cluster, hosts=cluster.hosts + cluster.hosts[:1])
    links = {("attic", "lab"): cluster.default_link, **cluster.links}
    with pytest.raises(ClusterError, match="'attic' and 'lab' is given twice"):
        replace(cluster, links=links)


def test_a_server_on_an_unknown_host_is_refused(cluster: Cluster) -> None:
    lost = Server(name="x", host="cellar", threads=1, memory_bytes=1)
    with pytest.raises(ClusterError, match="'x' is on host 'cellar'.*its hosts are lab, attic"):
        replace(cluster, servers=(lost,))


def test_a_link_of_an_unknown_server_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="'cellar' is neither a server nor a host"):
        replace(cluster, links={("lab", "cellar"): cluster.default_link})


def test_a_cluster_without_servers_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="0 servers"):
        replace(cluster, servers=())


def test_servers_do_not_offer_more_memory_than_their_host_has(cluster: Cluster) -> None:
    hosts = (replace(cluster.hosts[0], memory_bytes=14 * 2**30 - 1), cluster.hosts[1])
    with pytest.raises(ClusterError, match="'lab' offer 15,032,385,536 bytes, it has 15,032,385,5"):
        replace(cluster, hosts=hosts)


@pytest.mark.parametrize(
    "change",
    [
        {"cores": 0},
        {"memory_bytes": -1},
        {"watts": -3.0},
        {"cache_bytes": 0},
        {"call_overhead_s": -1e-6},
        {"layer_overhead_s": math.nan},
        {"store_bytes_per_s": 0.0},
        {"rates": {}},
    ],
)
def test_a_host_refuses(cluster: Cluster, change: dict[str, float]) -> None:
    with pytest.raises(ClusterError, match=f"host 'lab' has .*{next(iter(change))}"):
        replace(cluster.hosts[0], **change)  # type: ignore[arg-type]


def test_a_cluster_can_be_cut_down_to_some_servers(cluster: Cluster) -> None:
    for name in ("lab-0", "lab-1"):  # joined by the link of the hosts, and by one of their own
        few = cluster.only(["attic-0", name])
        assert [server.name for server in few.servers] == ["attic-0", name]
        assert few.link(name, "attic-0") == cluster.link(name, "attic-0")
    one = cluster.only(["lab-0"])
    assert [host.name for host in one.hosts] == ["lab"]
    assert one.links == {}
    with pytest.raises(ClusterError, match="no server 'lab-7'"):
        cluster.only(["lab-0", "lab-7"])
    with pytest.raises(ClusterError, match="'lab-0' is given twice"):
        cluster.only(["lab-0", "lab-0"])
