"""Hosts from measurements of an imagined machine, whose truth is written down here."""

from __future__ import annotations

import pytest

from partwise.cluster import Curve
from partwise.probe.assemble import assemble_host, find_cache
from partwise.probe.measurements import Measurements
from partwise.probe.overhead import Overhead
from partwise.probe.points import (
    MIB,
    STREAMED_SHAPES,
    TOKENS,
    Machine,
    Multiply,
    Point,
    Read,
    Who,
    empty_multiply,
    list_multiplies,
    list_reads,
    list_teams,
)
from partwise.probe.spread import Spread
from partwise.probe.team import Measured

MACHINE = Machine(cores=2, memory_bytes=16 << 30, cache_bytes=32 * MIB)
CALL_S = 2e-6
# Of what one process alone does, each of two gets so much at once; two threads do the double.
SHARE = {Who.ONE_CORE: 1.0, Who.ALL_CORES: 0.8, Who.ONE_SERVER: 2.0}


def read_bytes_per_s(num_bytes: int) -> float:
    """100 GB/s up to 16 MiB, 40 beyond."""
    return 100e9 if num_bytes <= 16 * MIB else 40e9


def byte_s(point: Multiply) -> float:
    """In cache 2 GMAC/s and a token; from memory 10 MB/s for each input, for all tokens."""
    if point.num_bytes == 1:  # one matrix
        return point.tokens / 4 / (2e9 * point.tokens)
    return point.tokens / (10e6 * point.shape[1])


def measure(who: Who, num_processes: int, point: Point) -> Measured:
    if isinstance(point, Read):
        own = point.num_bytes // num_processes
        pass_s, calls, macs = own / read_bytes_per_s(point.num_bytes), 1, 0
    else:
        outputs, inputs = point.shape
        calls = max(1, point.num_bytes // num_processes // (4 * outputs * inputs))
        own = 4 * calls * outputs * inputs
        macs = own // 4 * point.tokens
        pass_s = own * byte_s(point)
        if point == empty_multiply(point.precision):
            pass_s = 0.0
        pass_s += calls * CALL_S * SHARE[who]
    rate = SHARE[who] / pass_s
    return Measured(
        point=point,
        passes_per_s=(rate, rate * 1.01, rate * 0.5),
        num_bytes=own,
        num_calls=calls,
        macs=macs,
    )


def imagine() -> Measurements:
    none = Spread(median=1e-4, low=1e-4, high=1e-4)
    measured = {}
    for team in list_teams(MACHINE.cores):
        points = [*list_reads(team, MACHINE), *list_multiplies(team, MACHINE, ["fp32"])]
        for point in points:
            measured[team.who, point] = measure(team.who, team.num_processes, point)
    overhead = Overhead(call_s=none, layer_s=none, row_s=none)
    return Measurements(precisions=("fp32",), measured=measured, overhead=overhead)


def test_the_host_is_the_machine_that_was_measured() -> None:
    host = assemble_host("lab", MACHINE, imagine(), 2e9)
    assert (host.name, host.cores, host.memory_bytes) == ("lab", 2, 16 << 30)
    assert host.one_core_bytes_per_s.at(1 * MIB) == pytest.approx(100e9)
    assert host.one_core_bytes_per_s.at(512 * MIB) == pytest.approx(40e9)
    assert host.all_cores_bytes_per_s.at(512 * MIB) == pytest.approx(2 * 0.8 * 40e9)
    assert host.cache_bytes == 16 * MIB
    assert host.store_bytes_per_s == 2e9
    assert host.call_overhead_s == host.layer_overhead_s == host.row_overhead_s == 1e-4


def test_rates_and_streams_are_without_calls_and_by_inputs() -> None:
    rates = assemble_host("lab", MACHINE, imagine(), None).rates["fp32"]
    assert rates.one_server_macs_per_s is not None
    assert [s.inputs for s in rates.streaming] == [shape[1] for shape in STREAMED_SHAPES]
    for tokens in TOKENS:
        assert rates.one_core_macs_per_s.at(tokens) == pytest.approx(2e9 * tokens, rel=2e-2)
        assert rates.all_cores_macs_per_s.at(tokens) == pytest.approx(3.2e9 * tokens, rel=2e-2)
        assert rates.one_server_macs_per_s.at(tokens) == pytest.approx(4e9 * tokens, rel=2e-2)
        for streaming in rates.streaming:
            stream = 10e6 * streaming.inputs / tokens
            assert streaming.one_server_bytes_per_s is not None
            for curve, share in (
                (streaming.one_core_bytes_per_s, 1.0),
                (streaming.all_cores_bytes_per_s, 1.6),
                (streaming.one_server_bytes_per_s, 2.0),
            ):
                assert curve.at(tokens) == pytest.approx(share * stream, rel=2e-2)


@pytest.mark.parametrize(
    ("x_mib", "gb_per_s", "cache_mib"),
    [
        ((1, 12, 16, 24, 32, 64), (73, 73, 61, 40, 26, 24.5), 16),  # a measured EPYC
        ((1 / 2, 1, 8, 16, 32, 64), (230, 120, 96, 95, 50, 40), 16),  # with a faster second level
        ((1, 8, 64), (25, 25, 24), 1),  # no step: no cache that is worth planning for
    ],
)
def test_the_cache_is_what_reads_as_its_last_level_does(
    x_mib: tuple[float, ...], gb_per_s: tuple[float, ...], cache_mib: int
) -> None:
    curve = Curve(x=tuple(x * MIB for x in x_mib), y=tuple(y * 1e9 for y in gb_per_s))
    assert find_cache(curve) == cache_mib * MIB
