"""How fast one server runs a pass, given who shares its host.

Curves are made monotone here, so that more layers on a server never take less time: that is
what the strategies' proofs rest on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from partwise.cluster.description import Curve, Host, Server
from partwise.errors import PlanError

Bound = Literal["bandwidth", "compute", "overhead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Threads on a host: of the servers that compute at once, and of all that are used.

    The first share cores and bandwidth; all share the cache, for servers that take turns
    read each other's weights out of it.
    """

    active_threads: int
    used_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one server gets of its host.

    ``bytes_per_s`` is over the server's own working set, ``macs_per_s`` over the rows of a
    pass; both are this server's share.
    """

    bytes_per_s: Curve
    macs_per_s: Curve
    call_overhead_s: float
    layer_overhead_s: float

    def read_s(self, read_bytes: float, working_set_bytes: float) -> float:
        """Seconds to read ``read_bytes`` of a working set."""
        return read_bytes / self.bytes_per_s.at(working_set_bytes)

    def compute_s(self, macs: float, rows: int) -> float:
        """Seconds for ``macs`` multiply-accumulates in a pass of ``rows`` rows."""
        return macs / self.macs_per_s.at(rows)

    def overhead_s(self, num_layers: int) -> float:
        """Seconds of one runner call over ``num_layers`` layers besides their work."""
        return self.call_overhead_s + self.layer_overhead_s * num_layers


def spend(read_s: float, compute_s: float, overhead_s: float) -> tuple[float, Bound]:
    """Seconds of a pass whose reads and arithmetic overlap, and what most of them go to."""
    work_s = max(read_s, compute_s)
    if overhead_s > work_s:
        return work_s + overhead_s, "overhead"
    return work_s + overhead_s, "bandwidth" if read_s >= compute_s else "compute"


def measure_speed(host: Host, server: Server, precision: str, sharing: Sharing) -> Speed:
    """What ``server`` gets of ``host`` when servers with ``sharing`` threads share it.

    Raises:
        PlanError: the host gives no rates for ``precision``.
    """
    rates = host.rates.get(precision)
    if rates is None:
        raise PlanError(
            f"host {host.name!r} gives no rates for {precision}, only for"
            f" {', '.join(host.rates)}: probe it, or plan for one of these"
        )
    active = max(sharing.active_threads, server.threads)
    used = max(sharing.used_threads, active)
    bandwidth = _combine(host.one_core_bytes_per_s, host.all_cores_bytes_per_s, active, host.cores)
    rate = _combine(rates.one_core_macs_per_s, rates.all_cores_macs_per_s, active, host.cores)
    share = server.threads / active
    return Speed(
        bytes_per_s=Curve(
            # The curve is over what the host reads in all: the others hold as much a thread.
            x=tuple(x * server.threads / used for x in bandwidth.x),
            y=tuple(y * share for y in bandwidth.non_increasing().y),
        ),
        macs_per_s=Curve(x=rate.x, y=tuple(y * share for y in rate.non_decreasing().y)),
        call_overhead_s=host.call_overhead_s,
        layer_overhead_s=host.layer_overhead_s,
    )


def _combine(one_core: Curve, all_cores: Curve, threads: int, cores: int) -> Curve:
    """What ``threads`` get together: as many cores' worth, up to what all cores get."""
    if threads >= cores:
        return all_cores
    if threads == 1:
        return one_core
    points = tuple(sorted({*one_core.x, *all_cores.x}))
    pairs = [(one_core.at(x), all_cores.at(x)) for x in points]
    return Curve(x=points, y=tuple(min(threads * one, max(one, every)) for one, every in pairs))
