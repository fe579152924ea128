"""The cluster file: an exact round trip, and errors that name the key as it was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.cluster import Cluster, Curve, Host, LinkSpeed, Rates, Server, Streaming
from partwise.cluster.description import PRECISIONS
from partwise.cluster.toml_file import decode_cluster, read_cluster, write_cluster
from partwise.errors import ClusterError

NUMBERS = st.floats(1e-9, 1e15)
NAMES = st.text(
    st.characters(codec="utf-8").filter(lambda c: c.isprintable()), min_size=1, max_size=8
).filter(lambda name: not name.isspace())
PRECISION_NAMES = st.sampled_from(PRECISIONS)


@st.composite
def curves(draw: st.DrawFn, x: list[float] | None = None) -> Curve:
    x = x or draw(st.lists(st.integers(1, 1 << 40).map(float), min_size=1, max_size=5, unique=True))
    return Curve(x=tuple(sorted(x)), y=tuple(draw(NUMBERS) for _ in x))


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    rows = [1.0, 4.0, 16.0][: draw(st.integers(1, 3))]
    has_server = draw(st.booleans())
    one, every, server, *streamed = (draw(curves(rows)) for _ in range(6))
    streaming = Streaming(
        inputs=draw(st.integers(1, 9)),
        one_core_bytes_per_s=streamed[0],
        all_cores_bytes_per_s=streamed[1],
        one_server_bytes_per_s=streamed[2] if has_server else None,
    )
    return Rates(
        one_core_macs_per_s=one,
        all_cores_macs_per_s=every,
        one_server_macs_per_s=server if has_server else None,
        streaming=draw(
            st.sampled_from([(), (streaming,), (streaming, replace(streaming, inputs=10))])
        ),
    )


LINKS = st.builds(LinkSpeed, bandwidth_bytes_per_s=NUMBERS, round_trip_s=st.floats(0, 10))


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    hosts = tuple(
        Host(
            name=name,
            cores=draw(st.integers(1, 500)),
            memory_bytes=draw(st.integers(1, 1 << 44)),
            one_core_bytes_per_s=draw(curves()),
            all_cores_bytes_per_s=draw(curves()),
            rates=draw(st.dictionaries(PRECISION_NAMES, rates(), min_size=1, max_size=2)),
            call_overhead_s=draw(st.floats(0, 1)),
            layer_overhead_s=draw(st.floats(0, 1)),
            row_overhead_s=draw(st.floats(0, 1)),
            store_bytes_per_s=draw(st.none() | NUMBERS),
            watts=draw(st.none() | NUMBERS),
            cache_bytes=draw(st.none() | st.integers(1, 1 << 40)),
        )
        for name in names
    )
    servers = tuple(
        Server(
            name=f"{host.name}-0",
            host=host.name,
            threads=draw(st.integers(1, 64)),
            memory_bytes=draw(st.integers(1, host.memory_bytes)),
        )
        for host in hosts
    )
    pairs = [(a, b) for i, a in enumerate(names) for b in names[: i + 1]]
    return Cluster(
        hosts=hosts,
        servers=servers,
        default_link=draw(LINKS),
        loopback_link=draw(st.none() | LINKS),
        links=draw(st.dictionaries(st.sampled_from(pairs), LINKS, max_size=3)),
    )


@settings(max_examples=40, deadline=None)
@given(clusters())
def test_what_is_written_reads_back_exactly(cluster: Cluster) -> None:
    assert decode_cluster(write_cluster(cluster)) == cluster


def test_the_file_of_the_documentation_is_a_cluster() -> None:
    from partwise.cluster import toml_file

    assert toml_file.__doc__ is not None
    lines = [line for line in toml_file.__doc__.splitlines() if line.startswith("    ")]
    text = "\n".join(lines)
    cluster = decode_cluster(text)
    assert cluster.hosts[0].one_core_bytes_per_s.at(32 << 20) == 25e9
    assert cluster.hosts[0].rates["fp32"].all_cores_macs_per_s.at(16) == 48e9
    assert cluster.hosts[0].cache_bytes == 12 << 20
    assert cluster.hosts[0].call_overhead_s == 150e-6
    assert cluster.server("lab-0").memory_bytes == 7 << 30
    assert cluster.default_link == LinkSpeed(bandwidth_bytes_per_s=1.25e9, round_trip_s=100e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_gib = 16", "memory = 16", "key 'memory' without its unit: write memory_gib"),
        ("memory_gib = 7", "memory = 7", "server 'lab-0' has the key 'memory' without its unit"),
        ("round_trip_us = 100", "round_trip = 1", "default_link has .*write round_trip_us"),
        ("bandwidth_gb_per_s = 1.25", "bandwidth = 1", "write bandwidth_gb_per_s"),
        ("working_set_mib = ", "working_set = ", "one_core_bandwidth has .*write working_set_mib"),
        ("memory_gib = 16", "memory_mib = 16", "unknown key 'memory_mib': did you mean memory_gib"),
        ("cores = 2", "coers = 2", "unknown key 'coers': did you mean cores"),
        ("cores = 2\n", "", "host 'lab' has no cores: add it"),
        ("cores = 2", "cores = -2", "host 'lab' has cores = -2, expected a whole number of at"),
        ("cores = 2", "cores = 2.5", "cores = 2.5, expected a whole number"),
        ("cores = 2", "cores = true", "cores = True, expected a whole number"),
        ("memory_gib = 16", "memory_gib = -16", "memory_gib = -16, expected a number above 0"),
        ("memory_gib = 16", "memory_gib = 0", "memory_gib = 0, expected a number above 0"),
        ("memory_gib = 16", "memory_gib = inf", "memory_gib = Infinity, expected a number above"),
        ("memory_gib = 16", "memory_gib = nan", "memory_gib = NaN, expected a number above 0"),
        ("memory_gib = 16", 'memory_gib = "16"', "memory_gib = '16', expected a number"),
        ("call_overhead_us = 150", "call_overhead_us = -1.5", "overhead_us = -1.5, expected 0 or"),
        ("working_set_mib = [1, 12", "working_set_mib = [1, -12", "set_mib = -12, expected"),
        ("working_set_mib = [1, 12", "working_set_mib = [12, 1", "do not ascend"),
        ("[1, 12, 32]", "[1, 12]", "working_set_mib and bandwidth_gb_per_s: a curve has 2 points"),
        ("rows = [1, 16]", "rows = 1", "host 'lab': rates: fp32 has rows = 1, expected a list"),
        ('host = "lab"', 'host = "cellar"', "on host 'cellar', which the cluster does not have"),
        ('name = "lab-0"', "name = 3", "a server without a name has name = 3, expected text"),
        ("[default_link]", "[default_lnik]", "the file has the unknown key 'default_lnik': did"),
        ("[[servers]]", "[servers]", "expected tables, each headed"),
        ('between = ["lab", "lab"]', 'between = "lab"', "expected two names"),
        ("[[hosts]]", "[[hosts]", "not TOML: "),
    ],
)  # fmt: skip
def test_a_wrong_file_is_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "lab.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ClusterError, match=message) as caught:
        read_cluster(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_server_given_twice_is_refused() -> None:
    server = GOOD[GOOD.index("[[servers]]") : GOOD.index("[default_link]")]
    with pytest.raises(ClusterError, match="the server 'lab-0' is given twice"):
        decode_cluster(GOOD.replace(server, server + server))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"none\.toml: No such file"):
        read_cluster(tmp_path / "none.toml")
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClusterError, match="not UTF-8"):
        read_cluster(tmp_path / "raw.toml")


GOOD = """
[[hosts]]
name = "lab"
cores = 2
memory_gib = 16
call_overhead_us = 150

[hosts.one_core_bandwidth]
working_set_mib = [1, 12, 32]
bandwidth_gb_per_s = [73, 73, 25]

[hosts.all_cores_bandwidth]
working_set_mib = [1, 12, 32]
bandwidth_gb_per_s = [140, 140, 40]

[hosts.rates.fp32]
rows = [1, 16]
one_core_gmacs_per_s = [6, 25]
all_cores_gmacs_per_s = [10, 48]

[[servers]]
name = "lab-0"
host = "lab"
threads = 1
memory_gib = 7

[default_link]
bandwidth_gb_per_s = 1.25
round_trip_us = 100

[[links]]
between = ["lab", "lab"]
bandwidth_gb_per_s = 0.02
round_trip_us = 3000
"""
