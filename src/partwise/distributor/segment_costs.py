"""The cost of any run of layers on any server, from prefix sums.

What a strategy searches with: layers whole, one precision, no hops. A plan of such parts,
one a server, is predicted by `cost.py` to cost the same.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from partwise.cluster.description import Cluster
from partwise.distributor.footprint import count_tokens, measure_footprint
from partwise.distributor.load import measure_layer
from partwise.distributor.pipeline import split_streams
from partwise.distributor.pricing import count_active, find_busy_share
from partwise.distributor.range_max import RangeMax
from partwise.distributor.speed import Pass, Sharing, Speed, find_pass, measure_speed
from partwise.distributor.workload import Workload
from partwise.errors import PlanError
from partwise.model.description import Layer, Model

_SpeedKey = tuple[str, int, Sharing, int]
"""What a server's speed depends on, in one workload: host, threads, who shares it, tokens."""


class SegmentCosts:
    """Seconds and bytes of layers ``start:stop`` held whole by one server.

    ``server_index`` counts ``servers`` (default: those of the cluster, in its order), all of
    which are taken to hold a stage each. What a server reads again and again must fit its entry
    of ``cache_limits`` (bytes), where they are given. In training a server must have room for the
    microbatches in flight at its place in the order given; without ``has_order`` at any place,
    so at the first. What another one, ``like``, of the same model, cluster and workload has worked
    out is taken from there. Nothing here changes after construction.

    Raises:
        PlanError: a host gives no rates for the workload's precision.
        ClusterError: the cluster has no server of one of the names.
    """

    def __init__(
        self,
        model: Model,
        cluster: Cluster,
        workload: Workload,
        servers: Sequence[str] | None = None,
        cache_limits: Sequence[int] | None = None,
        *,
        has_order: bool = True,
        like: SegmentCosts | None = None,
    ) -> None:  # most calls give a problem's four; the rest is of the searches that vary it
        names = [s.name for s in cluster.servers] if servers is None else list(servers)
        if not names:
            raise PlanError("a plan needs at least 1 server, got 0: name one")
        self.num_layers = len(model.layers)
        self.memory_limits = [cluster.server(name).memory_bytes for name in names]
        self._cache_limits = cache_limits
        rows, _ = split_streams(workload.streams, len(names))
        self._rows = count_tokens(workload) if workload.is_training else rows
        self._num_transfers = workload.num_transfers
        places = [i * has_order for i in range(len(names))]
        self._num_in_flight = [workload.count_in_flight(place, len(names)) for place in places]
        self._sums: dict[int, _Sums] = like._sums if like else {}
        if self._rows not in self._sums:
            self._sums[self._rows] = _add_up_layers(model, workload, self._rows)
        sums = self._sums[self._rows]
        self._read, self._working_set, self._macs = sums.read, sums.working_set, sums.macs
        self._kept, self._saved, self._reused = sums.kept, sums.saved, sums.reused
        self._tied: list[tuple[int, int, int]] = like._tied if like else _find_tied(model, workload)
        kind = find_pass(model, workload, self._rows)
        self._found: dict[_SpeedKey, Speed] = like._found if like else {}
        self._speeds = _measure_speeds(cluster, names, workload, kind, self._found)

    def seconds(self, server_index: int, start: int, stop: int) -> float:
        """Seconds of one pass of layers ``start:stop``: never less for more layers, 0 for none."""
        if start >= stop:
            return 0.0
        return self._speeds[server_index].pass_s(
            self._read[stop] - self._read[start],
            self._working_set[stop] - self._working_set[start],
            self._macs[stop] - self._macs[start],
            stop - start,
            self._num_transfers,
        )

    def bytes(self, start: int, stop: int, num_in_flight: int = 1) -> int:
        """Memory in bytes of layers ``start:stop``, with so many microbatches in flight: never
        less for more layers, 0 for none."""
        if start >= stop:
            return 0
        kept = self._kept[stop] - self._kept[start]
        if num_in_flight > 1:
            kept += (num_in_flight - 1) * (self._saved[stop] - self._saved[start])
        tied = sum(n for first, last, n in self._tied if start <= first and last < stop)
        return kept - tied + self._reused.largest(start, stop)

    def working_set_bytes(self, start: int, stop: int) -> float:
        """Bytes that layers ``start:stop`` read again and again."""
        return self._working_set[stop] - self._working_set[start]

    def fits(self, server_index: int, start: int, stop: int) -> bool:
        """Whether a server can hold layers ``start:stop``."""
        limits = self._cache_limits
        if limits is not None and self.working_set_bytes(start, stop) > limits[server_index]:
            return False
        needed = self.bytes(start, stop, self._num_in_flight[server_index])
        return needed <= self.memory_limits[server_index]

    def max_stop(self, server_index: int, start: int, seconds_limit: float) -> int:
        """The furthest stop with ``seconds`` up to ``seconds_limit`` that the server can hold;
        ``start`` where not even one layer is."""
        low, stop = start, self._max_stop_in_time(server_index, start, seconds_limit)
        if self.fits(server_index, start, stop):
            return stop
        high = stop
        while high - low > 1:
            middle = (low + high) // 2
            if self.fits(server_index, start, middle):
                low = middle
            else:
                high = middle
        return low

    def _max_stop_in_time(self, server_index: int, start: int, limit_s: float) -> int:
        low, high = self._bracket(server_index, start, limit_s)
        if self.seconds(server_index, start, low) > limit_s:
            low = start
        if high <= self.num_layers and self.seconds(server_index, start, high) <= limit_s:
            high = self.num_layers + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.seconds(server_index, start, middle) <= limit_s:
                low = middle
            else:
                high = middle
        return low

    def _bracket(self, server_index: int, start: int, limit_s: float) -> tuple[int, int]:
        """A stop that should be within the limit and one beyond it, close to each other.

        From the least and the greatest bandwidth, then from those at the bounds so found,
        which are one where the working set is large.
        """
        speed = self._speeds[server_index]
        curve, overhead_s = speed.bytes_per_s, speed.layer_overhead_s * self._num_transfers
        budget_s = limit_s - speed.call_overhead_s * self._num_transfers
        read_bytes, working_set = self._read[start], self._working_set[start]
        macs = self._macs[start] + budget_s * speed.macs_per_s
        computed = bisect.bisect_right(self._macs, macs, start)
        low, high = start, self.num_layers + 1
        slow, fast = curve.y[-1], curve.y[0]
        for _ in range(2):
            spent_s = budget_s - overhead_s * (low - start)
            high = bisect.bisect_right(self._read, read_bytes + spent_s * fast, start)
            high = min(high, computed)
            spent_s = budget_s - overhead_s * (high - start)
            low = bisect.bisect_right(self._read, read_bytes + spent_s * slow, start)
            low = max(start, min(low, high) - 1)
            fast = curve.at(self._working_set[low] - working_set)
            slow = curve.at(self._working_set[min(high, self.num_layers)] - working_set)
        # One step of room on both sides for rounding.
        return max(start, low - 1), min(max(high, start) + 1, self.num_layers + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """Of the first i layers, what `_measure_layer` says; ``reused`` of any run of them."""

    read: list[float]
    working_set: list[float]
    macs: list[float]
    kept: list[int]
    saved: list[int]
    reused: RangeMax


def _add_up_layers(model: Model, workload: Workload, rows: int) -> _Sums:
    # Models repeat their blocks: what one asks for is worked out once.
    measured = {
        first: _measure_layer(model.layers[first], model.hidden_size, workload, rows)
        for first in dict.fromkeys(model.alike)
    }
    columns = zip(*(measured[first] for first in model.alike), strict=True)
    read, working_set, macs, kept, saved, reused = columns
    return _Sums(
        read=_add_up(read),
        working_set=_add_up(working_set),
        macs=_add_up(macs),
        kept=[0, *itertools.accumulate(kept)],
        saved=[0, *itertools.accumulate(saved)],
        reused=RangeMax(reused),
    )


def _measure_layer(
    layer: Layer, hidden_size: int, workload: Workload, rows: int
) -> tuple[float, float, float, int, int, int]:
    """Bytes read in a pass, working set in bytes, multiply-accumulates of a pass, bytes of
    memory that add up over layers, those of them for each microbatch in flight, bytes that layers
    take in turns."""
    load = measure_layer(layer, workload.mlp_sparsity)
    footprint = measure_footprint(layer, load, hidden_size, workload)
    return (
        load.read_bytes(workload, rows) * workload.num_passes,
        load.working_set_bytes(workload),
        load.macs(workload) * rows * workload.num_passes,
        footprint.kept_bytes,
        footprint.saved_activation_bytes,
        footprint.reused_bytes,
    )


def _add_up(values: Iterable[float]) -> list[float]:
    """Sums of the first i values. A list: one number of an array takes three times as long."""
    return [0.0, *itertools.accumulate(values)]


def _find_tied(model: Model, workload: Workload) -> list[tuple[int, int, int]]:
    """(first layer, last layer, bytes) that a part saves if it holds both."""
    layer_of: dict[str, int] = {}
    tied = []
    element_bytes = workload.element_bytes + 12 * workload.is_training
    for i, layer in enumerate(model.layers):
        for parameter in layer.parameters:
            if parameter.alias_of is None:
                layer_of[parameter.name] = i
    for i, layer in enumerate(model.layers):
        for parameter in layer.parameters:
            if parameter.alias_of is not None:
                pair = sorted((i, layer_of[parameter.alias_of]))
                tied.append((pair[0], pair[1], round(parameter.num_elements * element_bytes)))
    return tied


def _measure_speeds(
    cluster: Cluster,
    names: Sequence[str],
    workload: Workload,
    kind: Pass,
    found: dict[_SpeedKey, Speed],
) -> list[Speed]:
    """Each server's share of its host; what is not in ``found`` is worked out, and put there."""
    servers = [cluster.server(name) for name in names]
    used: Counter[str] = Counter()
    for server in servers:
        used[server.host] += server.threads
    busy_share = find_busy_share(workload, len(servers))
    speeds = []
    for server in servers:
        active = count_active(server.threads, used[server.host], busy_share)
        sharing = Sharing(active_threads=active, used_threads=used[server.host])
        key = server.host, server.threads, sharing, kind.tokens
        if key not in found:
            host = cluster.host_of(server.name)
            found[key] = measure_speed(host, server, workload.precision, sharing, kind)
        speeds.append(found[key])
    return speeds
