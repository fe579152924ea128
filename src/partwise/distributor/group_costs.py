"""What runs of layers cost a group of servers that share their neurons, as a stage's members.

As `pricing.py` prices a stage of such members, for many runs at once: what a strategy searches
with. A group of one server holds its layers whole. Hops are in `arrangement.py`.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.cache_fit import find_cache_limits
from partwise.distributor.exchange import Exchange, count_exchanges, join_members
from partwise.distributor.group_loads import GroupLoads
from partwise.distributor.layer_classes import LayerClasses, Runs, make_runs
from partwise.distributor.member_shares import Shares, find_granules, share_classes
from partwise.distributor.pricing import count_active, find_busy_share, split_passes
from partwise.distributor.problem import Problem
from partwise.distributor.speed import Pass, Sharing, Speed, find_pass, measure_speed
from partwise.distributor.transfer import choose_by_links, hop_bytes, price_hops

Group = tuple[str, ...]
"""Servers that are to be the members of one stage, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a group's costs depend on besides the group: the plan around it.

    ``used_threads`` are those of all servers of the plan, by host; ``num_stages`` its stages;
    ``num_in_flight`` the microbatches that the group's stage keeps at once.
    """

    num_stages: int
    used_threads: Counter[str]
    num_in_flight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPrice:
    """Of each run: seconds of every member (runs, members) without and ``exchange_s`` (runs,) of
    the exchange, bytes of memory and of the working set beside their limits, as the largest
    share of a limit that any member needs: ``filled`` (runs, members), at most 1 where it fits.
    """

    compute_s: NDArray[np.float64]
    exchange_s: NDArray[np.float64]
    filled: NDArray[np.float64]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Seconds for which a pass keeps the stage busy; infinite where it does not fit."""
        busy = self.compute_s.max(axis=1) + self.exchange_s
        return np.where(self.filled.max(axis=1) <= 1, busy, np.inf)


class GroupCosts:
    """Prices for groups of the servers of ``problem``, at ``streams`` streams.

    Memory and caches are those that the problem's own workload asks for. Option ``cache_fit``:
    what a member reads again and again must fit its share of its host's cache.

    Raises:
        PlanError: a host gives no rates for the workload's precision.
        Infeasible: ``cache_fit`` is asked, and a host's cache is not known.
    """

    def __init__(self, problem: Problem, streams: int) -> None:
        self.problem = problem
        self.workload = replace(problem.workload, streams=streams)
        self.classes = LayerClasses(problem.model)
        asked = problem.options.get("granules", {})
        self.granules = find_granules(problem.model, self.workload.precision, asked)
        self._servers = {name: problem.cluster.server(name) for name in problem.servers}
        self.limits = self._find_limits()
        self._speeds: dict[tuple[str, Sharing, Pass], Speed] = {}
        self._hops: dict[tuple[Group, Group, int], tuple[float, float]] = {}
        self._exchanges: dict[Group, Exchange] = {}
        self._shares: dict[tuple[tuple[float, ...], int], Shares] = {}
        self._loads = GroupLoads(
            self.classes, problem.model.hidden_size, self.workload, problem.workload
        )
        self._wholes: dict[tuple[int, int], NDArray[np.float64]] = {}
        self._num_kinds = np.array([len(layer.neuron_kinds) for layer in self.classes.layers])
        self._num_exchanges = (
            self._num_kinds
            * np.array(
                [count_exchanges(layer.kind, self.workload) for layer in self.classes.layers]
            ).T
        )

    def count_least(self) -> int | None:
        """No fewer servers offer together what the layers take; None where all do not."""
        *_, kept, cached, _ = self.sum_whole(self.rows(1))
        memory, caches = zip(*self.limits.values(), strict=True)
        counts = []
        for needed, offered in ((kept, memory), (cached, caches)):
            sums = list(itertools.accumulate(sorted(offered, reverse=True)))
            if sums[-1] < needed:
                return None
            counts.append(1 + bisect.bisect_left(sums, needed))
        return max(counts)

    def rows(self, num_stages: int) -> int:
        """Rows of a pass through a plan of so many stages."""
        return split_passes(self.workload, num_stages)[0]

    def settle(self, groups: Sequence[Group]) -> Setting:
        """The plan that ``groups`` are, as far as its first stage's costs depend on it."""
        names = [name for group in groups for name in group]
        return Setting(
            num_stages=len(groups),
            used_threads=self._count_threads(names),
            num_in_flight=self.problem.workload.count_in_flight(0, len(groups)),
        )

    def settle_each(self, groups: Sequence[Group]) -> list[Setting]:
        """The same for each of its stages: in training they keep fewer microbatches in turn."""
        first, count = self.settle(groups), self.problem.workload.count_in_flight
        places = range(len(groups))
        if not self.workload.is_training:
            return [first for _ in places]
        return [replace(first, num_in_flight=count(i, len(groups))) for i in places]

    def find_key(self, group: Group, setting: Setting) -> object:
        """The same for settings in which ``group`` costs the same."""
        rows, sharing = self.rows(setting.num_stages), self._find_sharing(group, setting)
        return group, rows, setting.num_in_flight, sharing

    def share(self, weights: Sequence[float], kv_weight: int = 0) -> Shares:
        """`share_classes` at the problem's granules."""
        key = tuple(weights), kv_weight
        if key not in self._shares:
            self._shares[key] = share_classes(self.classes, weights, self.granules, kv_weight)
        return self._shares[key]

    def price(self, group: Group, shares: Shares, setting: Setting, runs: Runs) -> GroupPrice:
        """What ``runs`` cost ``group``, whose members own ``shares``."""
        rows = self.rows(setting.num_stages)
        loads = self._loads.add_up(runs, shares, rows, setting.num_in_flight)
        read, working_set, macs, *room = loads
        compute_s = np.empty(read.shape)
        num_layers = runs.counts.sum(axis=1)
        for i, speed in enumerate(self.find_speeds(group, setting)):
            compute_s[:, i] = speed.passes_s(
                read[:, i],
                working_set[:, i],
                macs[:, i],
                num_layers,
                self.workload.num_transfers,
            )
        exchange_s = self._exchange_s(group, runs, rows)
        return GroupPrice(
            compute_s=compute_s, exchange_s=exchange_s, filled=self._fill(group, *room)
        )

    def fill(self, group: Group, shares: Shares, runs: Runs) -> NDArray[np.float64]:
        """What ``runs`` take of each member's memory or cache (runs, members): at most 1 where
        it holds them, in a stage at any place. Shares of one member are taken to be those of
        every one."""
        num_in_flight = self.problem.workload.count_in_flight(0, len(self.problem.servers))
        _, _, _, *room = self._loads.add_up(runs, shares, self.rows(1), num_in_flight)
        return self._fill(group, *room)

    def has_neurons(self, runs: Runs) -> NDArray[np.bool_]:
        """Which of the runs several members can share."""
        num_kinds: NDArray[np.int64] = runs.counts @ self._num_kinds
        return num_kinds > 0

    def _fill(
        self,
        group: Group,
        kept: NDArray[np.float64],
        cached: NDArray[np.float64],
        reused: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        memory, caches = np.array([self.limits[name] for name in group]).T
        filled: NDArray[np.float64] = np.maximum((kept + reused) / memory, cached / caches)
        return filled

    def hop_s(self, before: Group, after: Group, rows: int) -> tuple[float, float]:
        """Seconds until the last member of ``after`` has what those of ``before`` send it, and the
        most of them for which a link can carry nothing else."""
        key = before, after, rows
        if key not in self._hops:
            num_bytes = hop_bytes(self.problem.model, rows, "fp32")
            pairs = choose_by_links(self.problem.cluster, before, after, num_bytes)
            hops = price_hops(self.problem.cluster, pairs, lambda _, __: num_bytes)
            self._hops[key] = max(hop.seconds for hop in hops), max(hop.link_s for hop in hops)
        return self._hops[key]

    def _exchange_s(self, group: Group, runs: Runs, rows: int) -> NDArray[np.float64]:
        """Seconds of the exchange; infinite where members have nothing to share."""
        if len(group) == 1:
            return np.zeros(len(runs.counts))
        if group not in self._exchanges:
            self._exchanges[group] = join_members(self.problem.cluster, group)
        sums, picks = (runs.counts @ numbers for numbers in self._num_exchanges)
        seconds = self._exchanges[group].total_s(sums, picks, self.problem.model, rows)
        return np.where(self.has_neurons(runs), seconds, np.inf)

    def sum_whole(self, rows: int, num_in_flight: int = 1) -> NDArray[np.float64]:
        """The six numbers of `GroupLoads.add_up` for all layers on one server."""
        key = rows, num_in_flight
        if key not in self._wholes:
            shares = self.share([1.0])
            whole = make_runs(self.classes, [(0, len(self.classes.of))])
            self._wholes[key] = np.ravel(self._loads.add_up(whole, shares, *key))
        return self._wholes[key]

    def find_speeds(self, group: Group, setting: Setting) -> list[Speed]:
        """What each member gets of its host."""
        kind = find_pass(self.problem.model, self.workload, self.rows(setting.num_stages))
        speeds = []
        for name, sharing in zip(group, self._find_sharing(group, setting), strict=True):
            key = name, sharing, kind
            if key not in self._speeds:
                host, precision = self.problem.cluster.host_of(name), self.workload.precision
                speed = measure_speed(host, self._servers[name], precision, sharing, kind)
                self._speeds[key] = speed
            speeds.append(self._speeds[key])
        return speeds

    def _find_sharing(self, group: Group, setting: Setting) -> tuple[Sharing, ...]:
        own, used = self._count_threads(group), setting.used_threads
        busy_share = find_busy_share(self.workload, setting.num_stages)
        found = []
        for name in group:
            host = self._servers[name].host
            active = count_active(own[host], used[host], busy_share)
            found.append(Sharing(active_threads=active, used_threads=used[host]))
        return tuple(found)

    def _find_limits(self) -> dict[str, tuple[float, float]]:
        """Memory and cache of each server, in bytes."""
        names = self.problem.servers
        caches: Sequence[float] = find_cache_limits(self.problem) or [np.inf] * len(names)
        memory = [self._servers[name].memory_bytes for name in names]
        return dict(zip(names, zip(memory, caches, strict=True), strict=True))

    def _count_threads(self, names: Sequence[str]) -> Counter[str]:
        threads: Counter[str] = Counter()
        for name in names:
            threads[self._servers[name].host] += self._servers[name].threads
        return threads
