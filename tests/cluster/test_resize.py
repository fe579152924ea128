"""More machines of the same make, or fewer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from partwise.cluster import Cluster
from partwise.cluster.presets import preset
from partwise.cluster.resize import resize
from partwise.errors import ClusterError


def test_as_many_hosts_as_there_are_is_the_same_cluster(cluster: Cluster) -> None:
    assert resize(cluster, 2) == cluster


def test_fewer_hosts_keep_their_servers_and_lose_the_links_to_others(cluster: Cluster) -> None:
    small = resize(cluster, 1)
    assert small.hosts == cluster.hosts[:1]
    assert small.servers == cluster.servers[:2]
    assert small.links == {}


def test_copies_have_what_the_first_have_under_names_of_their_own(cluster: Cluster) -> None:
    large = resize(cluster, 5)
    names = ["lab", "attic", "lab-copy1", "attic-copy1", "lab-copy2"]
    assert [host.name for host in large.hosts] == names
    assert [server.host for server in large.servers] == [
        "lab", "lab", "attic", "lab-copy1", "lab-copy1", "attic-copy1", "lab-copy2", "lab-copy2",
    ]  # fmt: skip
    for host in large.hosts:
        first = next(h for h in cluster.hosts if h.name == host.name.split("-copy")[0])
        assert replace(host, name=first.name) == first


def test_links_stay_within_a_round_of_copies(cluster: Cluster) -> None:
    large = resize(cluster, 4)
    for number in ("", "-copy1"):
        assert large.link(f"lab-0{number}", f"attic-0{number}").round_trip_s == 3e-3
        assert large.link(f"lab-1{number}", f"attic-0{number}").round_trip_s == 0
    assert large.link("lab-0", "attic-0-copy1") == cluster.default_link
    assert large.link("lab-0", "lab-0-copy1") == cluster.default_link
    assert large.link("lab-0-copy1", "lab-1-copy1") == cluster.loopback_link


def test_a_preset_of_16_becomes_64() -> None:
    large = resize(preset("seed-h100-32mb"), 64)
    assert len({server.name for server in large.servers}) == 64
    assert {repr(replace(host, name="")) for host in large.hosts} == {
        repr(replace(preset("seed-h100-32mb").hosts[0], name=""))
    }


def test_what_cannot_be_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="num_hosts is 0, it must be at least 1"):
        resize(cluster, 0)
    host = replace(cluster.hosts[0], name="bare")
    with pytest.raises(ClusterError, match="0 servers"):
        resize(replace(cluster, hosts=(host, *cluster.hosts)), 1)
    clash = replace(cluster, hosts=(*cluster.hosts, replace(host, name="lab-copy1")))
    with pytest.raises(ClusterError, match="'lab-copy1' is given twice"):
        resize(clash, 4)
