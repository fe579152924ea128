"""The presets: what they promise, and how a machine is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from partwise.cluster import Cluster
from partwise.cluster.presets import PRESETS, preset
from partwise.cluster.toml_file import decode_cluster, write_cluster
from partwise.errors import ClusterError

NAMES = [name.replace("N", "3") for name in PRESETS]
MB = 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_survives_its_file(name: str) -> None:
    cluster = preset(name)
    assert decode_cluster(write_cluster(cluster)) == cluster


@pytest.mark.parametrize("name", NAMES)
def test_the_curves_of_a_preset_are_monotone(name: str) -> None:
    for host in preset(name).hosts:
        for bandwidth in (host.one_core_bytes_per_s, host.all_cores_bytes_per_s):
            assert bandwidth == bandwidth.non_increasing()
        for rates in host.rates.values():
            for rate in (rates.one_core_macs_per_s, rates.all_cores_macs_per_s):
                assert rate == rate.non_decreasing()


@pytest.mark.parametrize("name", NAMES)
def test_all_cores_are_never_slower_than_one(name: str) -> None:
    for host in preset(name).hosts:
        for x in (MB, 20 * MB, 100 * MB, 4000 * MB):
            assert host.all_cores_bytes_per_s.at(x) >= host.one_core_bytes_per_s.at(x)


def test_the_seed_s_cache_is_fast_as_claimed_and_as_measured() -> None:
    claimed, measured = preset("seed-h100-50mb"), preset("seed-h100-32mb")
    assert len(claimed.hosts) == len(measured.servers) == 16
    for x, claim, measurement in ((32, 6.9, 6.9), (41, 6.9, 3.3), (49, 6.9, 2.1), (100, 2, 2)):
        assert claimed.hosts[0].one_core_bytes_per_s.at(x * MB) == pytest.approx(claim * 1e12)
        assert measured.hosts[0].one_core_bytes_per_s.at(x * MB) == pytest.approx(
            measurement * 1e12
        )


def test_a_host_is_cut_into_equal_servers_that_offer_no_more_than_it_has(cluster: Cluster) -> None:
    host = replace(cluster.hosts[0], cores=7)
    cut = preset("local-3", host=host)
    assert cut.hosts == (host,)
    assert [server.threads for server in cut.servers] == [2, 2, 2]
    assert {server.memory_bytes for server in cut.servers} == {host.memory_bytes // 3}
    assert [server.name for server in cut.servers] == ["local-0", "local-1", "local-2"]


def test_more_servers_than_cores_take_turns(cluster: Cluster) -> None:
    assert {s.threads for s in preset("local-5", host=cluster.hosts[0]).servers} == {1}


def test_home_is_unequal() -> None:
    home = preset("home")
    assert len({server.memory_bytes for server in home.servers}) >= 3
    assert len({host.cores for host in home.hosts}) >= 2


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ClusterError, match="no preset is called 'hom'.*home"):
        preset("hom")
    with pytest.raises(ClusterError, match="no preset is called 'local-0'"):
        preset("local-0")


def test_a_host_is_refused_where_it_would_be_ignored(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="'home' has its own hosts"):
        preset("home", host=cluster.hosts[0])
