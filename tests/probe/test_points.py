"""What is measured follows from the machine: sizes fit it, and what is streamed fits no cache."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from partwise.probe.points import (
    CACHED_SHAPE,
    FEW_TOKENS,
    MIB,
    TOKENS,
    Machine,
    Multiply,
    Team,
    Who,
    list_matrices,
    list_multiplies,
    list_reads,
    list_streamed_shapes,
    list_teams,
)

MACHINES = st.builds(
    Machine,
    cores=st.integers(1, 256),
    memory_bytes=st.integers(1 << 30, 1 << 42),
    cache_bytes=st.integers(0, 1 << 31),
)


def pick(machine: Machine, who: Who) -> Team:
    return next(team for team in list_teams(machine.cores) if team.who is who)


def test_a_single_core_is_measured_once() -> None:
    assert [team.who for team in list_teams(1)] == [Who.ONE_CORE]
    teams = {team.who: team for team in list_teams(4)}
    assert (teams[Who.ALL_CORES].num_processes, teams[Who.ALL_CORES].num_threads) == (4, 1)
    assert (teams[Who.ONE_SERVER].num_processes, teams[Who.ONE_SERVER].num_threads) == (1, 4)


def test_a_core_reads_from_an_eighth_of_a_mib_to_512() -> None:
    machine = Machine(cores=2, memory_bytes=16 << 30, cache_bytes=32 * MIB)
    for who in (Who.ONE_CORE, Who.ALL_CORES):
        sizes = [point.num_bytes for point in list_reads(pick(machine, who), machine)]
        assert (sizes[0], sizes[-1]) == (MIB // 8, 512 * MIB)
        assert sizes == sorted(set(sizes))


@given(MACHINES)
def test_nothing_needs_more_than_a_quarter_of_the_memory(machine: Machine) -> None:
    for team in list_teams(machine.cores):
        points = [*list_reads(team, machine), *list_multiplies(team, machine, ["fp32"])]
        for point in points:
            assert point.num_bytes <= machine.memory_bytes / 4
            if isinstance(point, Multiply):
                # A process multiplies at least one matrix, whatever its share.
                outputs, inputs = point.shape
                least = team.num_processes * 4 * outputs * inputs
                assert least <= max(machine.memory_bytes / 4, team.num_processes * 2 * MIB)


@given(MACHINES)
def test_what_is_streamed_is_four_times_the_cache_where_memory_allows(machine: Machine) -> None:
    for team in list_teams(machine.cores):
        cached, *streamed = list_matrices(team, machine, "fp32")
        assert cached == (CACHED_SHAPE, 1)
        assert [shape for shape, _ in streamed] == list_streamed_shapes(machine, "fp32")
        for _, num_bytes in streamed:
            assert num_bytes >= min(4 * machine.cache_bytes, machine.memory_bytes // 4)


def test_every_number_of_tokens_is_measured_in_cache_and_at_every_width() -> None:
    machine = Machine(cores=2, memory_bytes=16 << 30, cache_bytes=32 * MIB)
    points = list_multiplies(pick(machine, Who.ALL_CORES), machine, ["fp32", "int8"])
    for precision, num_shapes, tokens in (("fp32", 4, TOKENS), ("int8", 1, FEW_TOKENS)):
        own = [p for p in points if isinstance(p, Multiply) and p.precision == precision]
        assert len(list_streamed_shapes(machine, precision)) == num_shapes
        assert len(own) == 1 + (1 + num_shapes) * len(tokens)
        assert {p.tokens for p in own} == set(tokens)
    # Of rounded weights a server's threads are taken to do what its cores do by themselves.
    points = list_multiplies(pick(machine, Who.ONE_SERVER), machine, ["fp32", "int8"])
    assert {p.precision for p in points if isinstance(p, Multiply)} == {"fp32"}
    assert not list_reads(pick(machine, Who.ONE_SERVER), machine)
