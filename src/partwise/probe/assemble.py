"""From what was measured to the host of a cluster file: pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from partwise.cluster.description import Curve, Host, Overheads, Rates, Streaming
from partwise.distributor.workload import ELEMENT_BYTES
from partwise.probe.measurements import Measurements
from partwise.probe.overhead import Overhead
from partwise.probe.points import (
    ROUNDED,
    Machine,
    Multiply,
    Read,
    Team,
    Who,
    empty_multiply,
    list_matrices,
    list_reads,
    list_streamed_shapes,
    list_teams,
    list_tokens,
)
from partwise.probe.spread import spread

CACHE_FACTOR, FAST_SHARE = 1.5, 0.75
"""What reads so many times as fast as memory is in a cache; it reads fast if it gets this share
of what working sets in caches get typically, which is the pace of the last level."""
DIGITS = 4


def assemble_host(
    name: str, machine: Machine, found: Measurements, store_bytes_per_s: float | None
) -> Host:
    """The host as a cluster file describes it, from medians, to DIGITS digits."""
    columns = {team.who: _Column(team, machine, found) for team in list_teams(machine.cores)}
    one, every = columns[Who.ONE_CORE], columns.get(Who.ALL_CORES, columns[Who.ONE_CORE])
    all_cores = every.read_curve()
    return Host(
        name=name,
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        one_core_bytes_per_s=one.read_curve(),
        all_cores_bytes_per_s=all_cores,
        rates={p: _assemble_rates(p, one, every,
                                  None if p in ROUNDED else columns.get(Who.ONE_SERVER))
               for p in found.precisions},
        call_overhead_s=_round(found.overhead.call_s.median),
        layer_overhead_s=_round(found.overhead.layer_s.median),
        row_overhead_s=_round(found.overhead.row_s.median),
        store_bytes_per_s=None if store_bytes_per_s is None else _round(store_bytes_per_s),
        cache_bytes=find_cache(all_cores),
    )  # fmt: skip


def find_cache(reads: Curve) -> int:
    """The largest working set that still reads as the last level of cache does; the least one
    where none reads CACHE_FACTOR times as fast as memory."""
    limit = CACHE_FACTOR * reads.y[-1]
    cached = [(x, y) for x, y in zip(reads.x, reads.y, strict=True) if y >= limit]
    if not cached:
        return int(reads.x[0])
    typical = statistics.median(y for _, y in cached)
    return int(max(x for x, y in cached if y >= FAST_SHARE * typical))


@dataclass(frozen=True, slots=True)
class _Column:
    """What one team found."""

    team: Team
    machine: Machine
    found: Measurements

    def read_curve(self) -> Curve:
        """Bytes per second over the bytes that the team reads in all."""
        points = list_reads(self.team, self.machine)
        bytes_per_s = [
            self.team.num_processes
            * self.found.measured[self.team.who, point].num_bytes
            / self._pass_s(point)
            for point in points
        ]
        return _curve([point.num_bytes for point in points], bytes_per_s)

    def macs_per_s(self, precision: str) -> Curve:
        """Multiply-accumulates per second over tokens, with weights in cache."""
        element_bytes = ELEMENT_BYTES[precision]
        cached, *_ = list_matrices(self.team, self.machine, precision)
        points = list_tokens(precision)
        seconds = [self._byte_s(precision, cached, tokens) for tokens in points]
        return _curve(
            points,
            [
                self.team.num_processes * tokens / element_bytes / byte_s
                for tokens, byte_s in zip(points, seconds, strict=True)
            ],
        )

    def stream(self, precision: str, shape: tuple[int, int]) -> Curve:
        """Bytes of weights per second over tokens, of matrices that no cache holds."""
        _, *streamed = list_matrices(self.team, self.machine, precision)
        matrices = next(matrices for matrices in streamed if matrices[0] == shape)
        points = list_tokens(precision)
        seconds = [self._byte_s(precision, matrices, tokens) for tokens in points]
        return _curve(points, [self.team.num_processes / byte_s for byte_s in seconds])

    def _byte_s(self, precision: str, matrices: tuple[tuple[int, int], int], tokens: int) -> float:
        """Seconds a byte of weights, without those of the calls."""
        shape, num_bytes = matrices
        point = Multiply(precision=precision, shape=shape, num_bytes=num_bytes, tokens=tokens)
        measured = self.found.measured[self.team.who, point]
        calls_s = measured.num_calls * self._pass_s(empty_multiply(precision))
        return _take_off(self._pass_s(point), calls_s) / measured.num_bytes

    def _pass_s(self, point: Read | Multiply) -> float:
        return 1 / spread(self.found.measured[self.team.who, point].passes_per_s).median


def _assemble_rates(precision: str, one: _Column, every: _Column, server: _Column | None) -> Rates:
    return Rates(
        overheads=_round_overheads(one.found.own_overheads.get(precision)),
        one_core_macs_per_s=one.macs_per_s(precision),
        all_cores_macs_per_s=every.macs_per_s(precision),
        one_server_macs_per_s=None if server is None else server.macs_per_s(precision),
        streaming=tuple(
            Streaming(
                inputs=shape[1],
                one_core_bytes_per_s=one.stream(precision, shape),
                all_cores_bytes_per_s=every.stream(precision, shape),
                one_server_bytes_per_s=None if server is None else server.stream(precision, shape),
            )
            for shape in list_streamed_shapes(one.machine, precision)
        ),
    )


def _round_overheads(found: Overhead | None) -> Overheads | None:
    if found is None:
        return None
    return Overheads(
        call_s=_round(found.call_s.median),
        layer_s=_round(found.layer_s.median),
        row_s=_round(found.row_s.median),
    )


def _take_off(seconds: float, calls_s: float) -> float:
    """Without what the calls cost: that, measured apart, may be too much."""
    return max(seconds - calls_s, seconds / 2)


def _curve(x: Sequence[float], y: Sequence[float]) -> Curve:
    return Curve(x=tuple(float(value) for value in x), y=tuple(_round(value) for value in y))


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
