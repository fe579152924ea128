"""Groups of servers in their order as the stages of a plan: the best cuts and shares for them.

It takes the groups as given; `arrangement_search.py` chooses them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.build import build_plan, name_parts
from partwise.distributor.cut_layers import Table, cut_layers
from partwise.distributor.group_costs import Group, GroupCosts, Setting
from partwise.distributor.group_pipeline import find_pipeline
from partwise.distributor.group_shares import (
    balance_shares,
    share_by_room,
    share_by_speed,
    share_within,
)
from partwise.distributor.layer_classes import RunTable
from partwise.distributor.member_shares import Shares, make_members
from partwise.distributor.pipeline import Pipeline
from partwise.distributor.plan import Plan, Stage

Join = Callable[[GroupCosts, Sequence[Group]], Pipeline]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Ways to share a stage: neurons of each member by class of layers, the seconds of every run
    with them (shares, runs), and the least of them by first and last cut."""

    shares: tuple[Shares, ...]
    seconds: NDArray[np.float64]
    least: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """Stage i is layers ``bounds[i]:bounds[i + 1]``, shared by the members ``groups[i]`` as
    ``shares[i]`` say. ``cycle_s`` is its time at the streams looked at: for one stream the
    latency, for more what all of them take for a token each; infinite where nobody looked."""

    groups: tuple[Group, ...]
    bounds: tuple[int, ...]
    shares: tuple[Shares, ...]
    cycle_s: float = np.inf


class Arranger:
    """Arranges groups over the layers of a problem; remembers what a group costs.

    ``join`` says what a chain of groups adds up to: as a plan is predicted, if nothing else is
    asked.
    """

    def __init__(self, costs: GroupCosts, join: Join = find_pipeline) -> None:
        self.costs = costs
        self._join = join
        self._table = RunTable(costs.classes)
        self._whole = RunTable(costs.classes, max_cuts=1)
        self._seconds: dict[object, dict[Shares, NDArray[np.float64]]] = {}
        self._by_speed: dict[object, Options] = {}
        self._options: dict[object, Options] = {}

    def arrange(
        self, groups: Sequence[Group], shorter_than_s: float = np.inf
    ) -> Arrangement | None:
        """The best cuts for ``groups``, every one with layers; None where they do not fit, or
        where what crosses links alone takes as long as ``shorter_than_s``."""
        pipeline = self._join(self.costs, groups)
        if pipeline.cycle_s(0.0, 0.0) >= shorter_than_s:
            return None
        settings = self.costs.settle_each(groups)
        options = [self._find_options(*pair) for pair in zip(groups, settings, strict=True)]
        return self._arrange(groups, options, pipeline)

    def balance(self, found: Arrangement) -> Arrangement:
        """The same with shares corrected for the layers that each stage has, if that is faster."""
        if all(len(group) == 1 for group in found.groups):
            return found
        settings = self.costs.settle_each(found.groups)
        options = []
        rows = zip(found.groups, pairwise(found.bounds), settings, strict=True)
        for group, run, setting in rows:
            given = self._find_options(group, setting)
            shares = balance_shares(self.costs, group, run, setting) if len(group) > 1 else None
            more = self._compare(group, (*given.shares, shares), setting) if shares else given
            options.append(more)
        better = self._arrange(found.groups, options, self._join(self.costs, found.groups))
        return better if better and better.cycle_s < found.cycle_s else found

    def _arrange(
        self, groups: Sequence[Group], options: Sequence[Options], pipeline: Pipeline
    ) -> Arrangement | None:
        cutting = cut_layers([several.least for several in options], pipeline)
        if cutting is None:
            return None
        table = self._find_table(len(groups))
        chosen = [
            several.shares[several.seconds[:, table.find(*run)].argmin()]
            for several, run in zip(options, pairwise(cutting.bounds), strict=True)
        ]
        return Arrangement(
            groups=tuple(groups),
            bounds=tuple(int(table.cuts[i]) for i in cutting.bounds),
            shares=tuple(chosen),
            cycle_s=cutting.cycle_s,
        )

    def _find_options(self, group: Group, setting: Setting) -> Options:
        """Shares by speed and, where some runs do not fit so, by memory."""
        key = setting.num_stages == 1, self.costs.find_key(group, setting)
        if key not in self._by_speed:
            shares = share_by_speed(self.costs, group, setting)
            self._by_speed[key] = self._compare(group, [shares], setting)
        by_speed = self._by_speed[key]
        if len(group) == 1 or np.isfinite(by_speed.least[0, -1]):
            return by_speed
        # What a member can hold of an even stage depends on how many stages there are.
        sized = setting.num_stages, key
        if sized not in self._options:
            within = share_within(self.costs, group, setting)
            by_room = share_by_room(self.costs, group)
            several = [*by_speed.shares, within, by_room]
            self._options[sized] = self._compare(group, several, setting)
        return self._options[sized]

    def _compare(self, group: Group, shares: Sequence[Shares], setting: Setting) -> Options:
        # Plans of other stages ask for the same shares of the same group again.
        key = setting.num_stages == 1, self.costs.find_key(group, setting)
        priced = self._seconds.setdefault(key, {})
        table = self._find_table(setting.num_stages)
        for each in shares:
            if each not in priced:
                priced[each] = self.costs.price(group, each, setting, table.runs).seconds
        seconds = np.array([priced[each] for each in shares])
        least = table.spread(seconds.min(axis=0))
        return Options(shares=tuple(shares), seconds=seconds, least=least)

    def _find_table(self, num_stages: int) -> RunTable:
        """A stage alone holds all layers: there is one run to price."""
        return self._whole if num_stages == 1 else self._table


def build_arrangement(
    costs: GroupCosts, strategy: str, found: Arrangement, notes: Sequence[str] = ()
) -> Plan:
    """The verified plan of an arrangement of all layers.

    Raises:
        Infeasible: a part needs more memory than its server offers.
    """
    problem = costs.problem
    servers = [name for group in found.groups for name in group]
    part_of = name_parts(servers)
    stages = []
    rows = zip(found.groups, pairwise(found.bounds), found.shares, strict=True)
    for group, (start, stop), shares in rows:
        parts = [part_of[name] for name in group]
        members = make_members(
            problem.model, costs.classes, (start, stop), parts, shares, costs.granules
        )
        stages.append(Stage(start=start, stop=stop, members=members))
    return build_plan(problem, strategy, tuple(stages), servers, notes)
