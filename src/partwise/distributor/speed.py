"""How fast one server runs a pass, given who shares its host.

Curves are made monotone here, so that more layers on a server never take less time: that is
what the strategies' proofs rest on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partwise.cluster.description import Curve, Host, Overheads, Server, Streaming
from partwise.distributor.workload import Workload
from partwise.errors import PlanError
from partwise.model.description import Model

Bound = Literal["bandwidth", "compute", "overhead"]

QUEUED = 0.25
"""By how much a pass takes longer where servers with more threads than cores keep just all cores
busy: a server is woken while the one that woke it still runs, and may be put behind another.
Measured with three servers on two cores, in passes of 13 and of 54 ms (decision 0014)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Threads on a host: of the servers that compute at once, and of all that are used.

    The first share cores and bandwidth; all share the cache, for servers that take turns
    read each other's weights out of it.
    """

    active_threads: int
    used_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What the speed of a pass depends on: its rows, the tokens of them all, and how the model's
    weights lie in rows of matrices (see `Model.shares_by_row_width`)."""

    rows: int
    tokens: int
    shares_by_row_width: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one server gets of its host in a pass of one kind.

    ``bytes_per_s`` is over the server's own working set.
    """

    bytes_per_s: Curve
    macs_per_s: float
    call_overhead_s: float
    layer_overhead_s: float

    def read_s(self, read_bytes: float, working_set_bytes: float) -> float:
        """Seconds to read ``read_bytes`` of a working set."""
        return read_bytes / self.bytes_per_s.at(working_set_bytes)

    def compute_s(self, macs: float) -> float:
        """Seconds for ``macs`` multiply-accumulates."""
        return macs / self.macs_per_s

    def pass_s(
        self,
        read_bytes: float,
        working_set_bytes: float,
        macs: float,
        num_layers: int,
        num_calls: int,
    ) -> float:
        """Seconds of a pass through layers: reads and arithmetic overlap, ``num_calls`` runner
        calls come on top."""
        work_s = max(
            read_bytes / self.bytes_per_s.at(working_set_bytes),
            macs / self.macs_per_s,
        )
        return work_s + (self.call_overhead_s + self.layer_overhead_s * num_layers) * num_calls

    def passes_s(
        self,
        read_bytes: NDArray[np.float64],
        working_set_bytes: NDArray[np.float64],
        macs: NDArray[np.float64],
        num_layers: NDArray[np.int64],
        num_calls: int,
    ) -> NDArray[np.float64]:
        """`pass_s` of many runs of layers at once, one number of each argument for each."""
        curve = self.bytes_per_s
        places = np.log(np.maximum(working_set_bytes, curve.x[0]))
        bandwidth = np.interp(places, np.log(curve.x), curve.y)
        work_s = np.maximum(read_bytes / bandwidth, macs / self.macs_per_s)
        overhead_s = self.call_overhead_s + self.layer_overhead_s * num_layers
        seconds: NDArray[np.float64] = work_s + overhead_s * num_calls
        return seconds

    def find_bound(
        self, read_bytes: float, working_set_bytes: float, macs: float, pass_s: float
    ) -> Bound:
        """What most of a pass of ``pass_s`` goes to."""
        read_s, compute_s = self.read_s(read_bytes, working_set_bytes), self.compute_s(macs)
        if pass_s > 2 * max(read_s, compute_s):
            return "overhead"
        return "bandwidth" if read_s >= compute_s else "compute"


def find_pass(model: Model, workload: Workload, tokens: int) -> Pass:
    """A pass of ``tokens``: one of each decoding row, or of a microbatch in training."""
    return Pass(
        rows=workload.sequences if workload.is_training else tokens,
        tokens=tokens,
        shares_by_row_width=model.shares_by_row_width,
    )


def measure_speed(
    host: Host, server: Server, precision: str, sharing: Sharing, kind: Pass
) -> Speed:
    """What ``server`` gets of ``host`` in a pass of a ``kind``, when servers with ``sharing``
    threads share it. Threads beyond the cores are not started (`fit_threads`).

    Raises:
        PlanError: the host gives no rates for ``precision``.
    """
    rates = host.rates.get(precision)
    if rates is None:
        raise PlanError(
            f"host {host.name!r} gives no rates for {precision}, only for"
            f" {', '.join(host.rates)}: probe it, or plan for one of these"
        )
    threads = fit_threads(server.threads, sharing.used_threads, host.cores)
    left = threads / server.threads
    active = max(round(sharing.active_threads * left), threads)
    used = max(round(sharing.used_threads * left), active)
    turn = _Turn(threads=threads, active=active, cores=host.cores)
    memory = turn.take(host.one_core_bytes_per_s, host.all_cores_bytes_per_s).non_increasing()
    if rates.streaming:
        memory = _stream(memory, _find_streamed(rates.streaming, turn, kind))
    overheads = rates.overheads or Overheads(
        call_s=host.call_overhead_s, layer_s=host.layer_overhead_s, row_s=host.row_overhead_s
    )
    macs = turn.take(
        rates.one_core_macs_per_s, rates.all_cores_macs_per_s, rates.one_server_macs_per_s
    ).non_decreasing()
    slower = 1 + QUEUED if used > host.cores == active > threads else 1.0
    return Speed(
        # The curve is over what the host reads in all: the others hold as much a thread.
        bytes_per_s=Curve(
            x=tuple(x * threads / used for x in memory.x), y=tuple(y / slower for y in memory.y)
        ),
        macs_per_s=macs.at(kind.tokens) / slower,
        call_overhead_s=overheads.call_s * slower,
        layer_overhead_s=(overheads.layer_s + kind.rows * overheads.row_s) * slower,
    )


def fit_threads(threads: int, used_threads: int, cores: int) -> int:
    """With how many of its ``threads`` a server computes, if those of all servers of its host
    are ``used_threads``: all in proportion, so that together they are no more than the cores,
    but each with at least one."""
    return threads if used_threads <= cores else max(1, threads * cores // used_threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A server of ``threads``, among servers of ``active`` threads at once on ``cores``."""

    threads: int
    active: int
    cores: int

    def take(self, one_core: Curve, all_cores: Curve, one_server: Curve | None = None) -> Curve:
        """What the server gets: its share of what all get together, but no more than its own
        threads get alone."""
        together = _combine(one_core, all_cores, self.active, self.cores)
        alone = _combine(one_core, one_server or all_cores, self.threads, self.cores)
        points = tuple(sorted({*together.x, *alone.x}))
        share = self.threads / self.active
        return Curve(x=points, y=tuple(min(share * together.at(x), alone.at(x)) for x in points))


def _combine(one_core: Curve, all_cores: Curve, threads: int, cores: int) -> Curve:
    """What ``threads`` get together: as many cores' worth, up to what all cores get."""
    if threads >= cores:
        return all_cores
    if threads == 1:
        return one_core
    points = tuple(sorted({*one_core.x, *all_cores.x}))
    pairs = [(one_core.at(x), all_cores.at(x)) for x in points]
    return Curve(x=points, y=tuple(min(threads * one, max(one, every)) for one, every in pairs))


def _find_streamed(streamings: Sequence[Streaming], turn: _Turn, kind: Pass) -> float:
    """Bytes per second of weights that no cache holds: each matrix at the pace of its width,
    between the widths that were measured."""
    seconds = [
        1 / turn.take(s.one_core_bytes_per_s, s.all_cores_bytes_per_s, s.one_server_bytes_per_s)
        .at(kind.tokens)
        for s in streamings
    ]  # fmt: skip
    by_width = Curve(x=tuple(float(s.inputs) for s in streamings), y=tuple(seconds))
    shares = kind.shares_by_row_width or ((streamings[-1].inputs, 1.0),)
    return 1 / sum(share * by_width.at(width) for width, share in shares)


def _stream(memory: Curve, streamed_bytes_per_s: float) -> Curve:
    """``memory`` as kernels read it: in cache as fast, beyond it as they stream. Between the two
    as much slower as memory itself is on its way from one to the other."""
    fast_s, slow_s = 1 / memory.y[0], 1 / memory.y[-1]
    streamed_s = max(slow_s, 1 / streamed_bytes_per_s)
    missed = [(1 / y - fast_s) / (slow_s - fast_s) if slow_s > fast_s else 1.0 for y in memory.y]
    return Curve(
        x=memory.x, y=tuple(1 / (fast_s + miss * (streamed_s - fast_s)) for miss in missed)
    )
