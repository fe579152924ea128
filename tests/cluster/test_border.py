"""What no machine has and no terminal shows does not get into a cluster, in one clear line."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from partwise.cluster import Cluster, Curve, LinkSpeed, Server
from partwise.cluster.checks import LEAST, MOST
from partwise.cluster.description import PRECISIONS
from partwise.cluster.presets import MAX_LOCAL, preset
from partwise.cluster.toml_file import decode_cluster, write_cluster, write_host
from partwise.distributor.workload import ELEMENT_BYTES
from partwise.errors import ClusterError

GOOD = write_cluster(preset("local-2"))


def refuse(text: str) -> str:
    with pytest.raises(ClusterError) as caught:
        decode_cluster(text)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_gib = 16", "memory_gib = 1e400", "memory_gib = 1E+400, expected a number below"),
        ("memory_gib = 16", "memory_gib = 1e19", "it must be 1e-12 to 1e+18: is the unit right?"),
        ("memory_gib = 16", "memory_gib = 1e9999999999999999999", "beyond TOML's limits"),
        ("memory_gib = 16", "memory_gib = 1e-999999", "memory_bytes = 0, it must be above 0"),
        ("cores = 2", f"cores = {'9' * 5000}", "a number beyond TOML's limits"),
        ("cores = 2", f"cores = 0x{'f' * 5000}", "a number beyond TOML's limits"),
        ("cores = 2", f"cores = [0x{'f' * 5000}]", "a number beyond TOML's limits"),
        ("cores = 2", "cores = 9000000000", "cores = 9000000000, expected at most 1,000,000"),
        ("cores = 2", f"cores{'.a' * 3000} = 2", "its tables or lists lie too deep"),
        ("cores = 2", f"cores = {'[' * 3000}", "its tables or lists lie too deep"),
        ("bandwidth_gb_per_s = 4", "bandwidth_gb_per_s = 1e999998", "expected a number below"),
        ("bandwidth_gb_per_s = 4", "bandwidth_gb_per_s = 1e-99", "must be 1e-12 to 1e+18"),
        ("round_trip_us = 80", "round_trip_us = 1e300", "expected a number below 1e20"),
        ("round_trip_us = 80", "round_trip_us = 1e15", "it must be at most 1e+06: is the unit"),
        ("one_core_gmacs_per_s = [6,", "one_core_gmacs_per_s = [1e-315,", "a curve holds 1e-306"),
        ("[hosts.rates.int4]", "[hosts.rates.int3]", "rates has the unknown key 'int3': did you"),
        ("[hosts.rates.int4]", r'[hosts.rates."\u001b[2J"]', r"unknown key '\x1b[2J': it may have"),
        ('name = "local"', r'name = "a\u0001b"', r"the host 'a\x01b' has a name that cannot be"),
        ('name = "local-0"', r'name = "a\nb"', r"the server 'a\nb' has a name that cannot be"),
        ('name = "local-0"', f'name = "{"a" * 5000}"', "a name of 5,000 characters, it may have"),
    ],
)
def test_a_file_with_what_no_machine_has_is_refused(old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert message in refuse(GOOD.replace(old, new, 1))


def test_a_host_file_is_told_from_a_cluster_file() -> None:
    line = refuse(write_host(preset("local-2").hosts[0]))
    assert "a host file, without servers and links: use --cluster local-N --host FILE" in line


@pytest.mark.parametrize("name", [" ", "a\nb", "a\tb", "\x1b[2J", "a\u202eb", "\ud800"])
def test_names_that_cannot_be_shown_are_refused(cluster: Cluster, name: str) -> None:
    for make in (
        lambda: replace(cluster.hosts[0], name=name),
        lambda: Server(name=name, host="lab", threads=1, memory_bytes=1),
    ):
        with pytest.raises(ClusterError, match="has a name that cannot be shown"):
            make()


def test_names_of_every_script_are_fine() -> None:
    for name in ("[fd00::6]:7070", "küche", "服务器-1", "the attic"):
        assert Server(name=name, host="lab", threads=1, memory_bytes=1).name == name


def test_what_is_within_the_limits_never_leaves_a_float() -> None:
    slow = Curve(x=(LEAST, MOST), y=(LEAST, MOST))
    assert all(math.isfinite(MOST / slow.at(x)) for x in (LEAST, 1.0, MOST))
    link = LinkSpeed(bandwidth_bytes_per_s=LEAST, round_trip_s=0.0)
    assert math.isfinite(1e3 * link.transfer_s(MOST))
    for x, y in (((1e-13,), (1.0,)), ((1.0,), (1e19,))):
        with pytest.raises(ClusterError, match="give numbers from 1e-12 to 1e"):
            Curve(x=x, y=y)


def test_rates_at_an_unknown_precision_are_refused(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    with pytest.raises(ClusterError, match="rates for the unknown precision 'int3': give them for"):
        replace(host, rates={"int3": host.rates["fp32"]})


def test_the_precisions_are_those_that_the_distributor_counts() -> None:
    assert sorted(PRECISIONS) == sorted(ELEMENT_BYTES)


@pytest.mark.parametrize("number", [str(MAX_LOCAL + 1), "999999", "9" * 5000])
def test_no_machine_is_cut_in_more_servers_than_can_be_planned(number: str) -> None:
    assert len(preset(f"local-{MAX_LOCAL}").servers) == MAX_LOCAL
    with pytest.raises(ClusterError, match="more than 1,024 servers: give local-1024 or fewer"):
        preset(f"local-{number}")
