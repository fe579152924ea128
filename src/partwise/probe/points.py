"""What is measured, and by whom: pure.

A team of processes measures each point at the same time, for a while: one core, every core by
itself, or one server with a thread on each core. Weights and buffers are the team's together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

KIB, MIB = 1 << 10, 1 << 20

WORKING_SETS_BYTES = tuple(
    int(mib * MIB)
    for mib in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512)
)
LEAST_READ_BYTES = 32 * KIB
"""Of one process: what its first level of cache holds."""
TOKENS = (1, 2, 3, 4, 16, 128)
"""Of a pass: kernels change at a few, and all but the last are what decoding asks for."""
FEW_TOKENS = (1, 4, 16, 128)
"""Of rounded weights: their one kernel is bound by arithmetic, and knows no widths either."""
ROUNDED = ("int8", "int4")
CACHED_SHAPE = (1024, 512)
"""(outputs, inputs): 2 MiB in fp32, which the caches of one core hold on most machines."""
STREAMED_SHAPES = ((1024, 512), (1536, 1536), (4096, 2048), (1024, 8192))
"""Linear layers of small and of larger models: kernels depend on their inputs."""
FEW_STREAMED_SHAPES = ((1536, 1536),)
LEAST_STREAMED_BYTES = 128 * MIB
LEAST_STREAMED_EACH_BYTES = 64 * MIB
"""Two of the larger matrices for a process, so that none stays in a cache of its own."""


class Who(StrEnum):
    """Which team; the values are the columns of the host file."""

    ONE_CORE = "one_core"
    ALL_CORES = "all_cores"
    ONE_SERVER = "one_server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """``num_processes`` that measure at once, each with ``num_threads``."""

    who: Who
    num_processes: int
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Reading a working set of ``num_bytes`` in all, again and again."""

    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiply:
    """Multiplying ``num_bytes`` of matrices of ``shape`` in all, with ``tokens`` a pass."""

    precision: str
    shape: tuple[int, int]
    num_bytes: int
    tokens: int


Point = Read | Multiply


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the points depend on. ``cache_bytes`` is all of its last level; 0: not known."""

    cores: int
    memory_bytes: int
    cache_bytes: int


def list_teams(cores: int) -> list[Team]:
    """Who measures on a machine of ``cores``; a single core is all of them."""
    one = Team(who=Who.ONE_CORE, num_processes=1, num_threads=1)
    if cores == 1:
        return [one]
    return [
        one,
        Team(who=Who.ALL_CORES, num_processes=cores, num_threads=1),
        Team(who=Who.ONE_SERVER, num_processes=1, num_threads=cores),
    ]


def list_reads(team: Team, machine: Machine) -> list[Point]:
    """What ``team`` reads; a process with several threads reads as its cores do by themselves."""
    if team.who is Who.ONE_SERVER:
        return []
    least, most = team.num_processes * LEAST_READ_BYTES, machine.memory_bytes // 4
    fitting = [n for n in WORKING_SETS_BYTES if least <= n <= most] or [least]
    return [Read(num_bytes=n) for n in fitting]


def list_multiplies(team: Team, machine: Machine, precisions: Sequence[str]) -> list[Point]:
    """What ``team`` multiplies, in an order in which neighbours share their matrices. A server's
    threads share products with rounded weights as its cores do by themselves."""
    points: list[Point] = []
    for precision in precisions:
        if precision in ROUNDED and team.who is Who.ONE_SERVER:
            continue
        points.append(empty_multiply(precision))
        for shape, num_bytes in list_matrices(team, machine, precision):
            points += [
                Multiply(precision=precision, shape=shape, num_bytes=num_bytes, tokens=tokens)
                for tokens in list_tokens(precision)
            ]
    return points


def empty_multiply(precision: str) -> Multiply:
    """What a call costs that multiplies nothing to speak of."""
    return Multiply(precision=precision, shape=(8, 8), num_bytes=1, tokens=1)


def list_tokens(precision: str) -> tuple[int, ...]:
    """The tokens of a pass at which products at ``precision`` are measured."""
    return FEW_TOKENS if precision in ROUNDED else TOKENS


def list_matrices(
    team: Team, machine: Machine, precision: str
) -> list[tuple[tuple[int, int], int]]:
    """Shapes, each with the bytes to be multiplied: what caches hold, then what they do not."""
    least = max(LEAST_STREAMED_BYTES, 4 * machine.cache_bytes)
    if precision in ROUNDED:
        least //= 2  # they take longer to be packed than to be measured
    streamed_bytes = max(least, team.num_processes * LEAST_STREAMED_EACH_BYTES)
    streamed_bytes = min(streamed_bytes, machine.memory_bytes // 4)
    cached = (CACHED_SHAPE, 1)  # one matrix a process
    return [
        cached,
        *((shape, streamed_bytes) for shape in list_streamed_shapes(machine, precision)),
    ]


def list_streamed_shapes(machine: Machine, precision: str) -> list[tuple[int, int]]:
    """Those of the shapes at ``precision`` of which a quarter of the memory holds one for each
    core, in fp32; the smallest at least."""
    room = machine.memory_bytes // 4 // machine.cores
    smallest, *others = FEW_STREAMED_SHAPES if precision in ROUNDED else STREAMED_SHAPES
    return [smallest, *(shape for shape in others if 4 * shape[0] * shape[1] <= room)]
