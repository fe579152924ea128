"""Groups of servers in their order as the stages of a plan: the best cuts and shares for them.

It takes the groups as given; `arrangement_search.py` chooses them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

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
Option = tuple[Shares, Table]
"""Neurons of each member by class of layers, and the seconds of every run with them."""


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
        self._options: dict[object, list[Option]] = {}

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
            more = [self._price(group, shares, setting)] if shares else []
            options.append([*given, *more])
        better = self._arrange(found.groups, options, self._join(self.costs, found.groups))
        return better if better and better.cycle_s < found.cycle_s else found

    def _arrange(
        self, groups: Sequence[Group], options: Sequence[Sequence[Option]], pipeline: Pipeline
    ) -> Arrangement | None:
        tables = [np.minimum.reduce([table for _, table in several]) for several in options]
        cutting = cut_layers(tables, pipeline)
        if cutting is None:
            return None
        cuts = self._find_table(len(groups)).cuts
        chosen = zip(options, pairwise(cutting.bounds), strict=True)
        return Arrangement(
            groups=tuple(groups),
            bounds=tuple(int(cuts[i]) for i in cutting.bounds),
            shares=tuple(_choose(several, run) for several, run in chosen),
            cycle_s=cutting.cycle_s,
        )

    def _find_options(self, group: Group, setting: Setting) -> list[Option]:
        """Shares by speed and, where some runs do not fit so, by memory."""
        key = self.costs.find_key(group, setting)
        if key not in self._options:
            options = [self._price(group, share_by_speed(self.costs, group, setting), setting)]
            if len(group) > 1 and not np.isfinite(options[0][1][0, -1]):
                for shares in (
                    share_within(self.costs, group, setting),
                    share_by_room(self.costs, group),
                ):
                    options += [self._price(group, shares, setting)]
            self._options[key] = options
        return self._options[key]

    def _price(self, group: Group, shares: Shares, setting: Setting) -> Option:
        table = self._find_table(setting.num_stages)
        price = self.costs.price(group, shares, setting, table.runs)
        return shares, table.spread(price.seconds)

    def _find_table(self, num_stages: int) -> RunTable:
        """A stage alone holds all layers: there is one run to price."""
        return self._whole if num_stages == 1 else self._table


def _choose(options: Sequence[Option], run: tuple[int, int]) -> Shares:
    return min(options, key=lambda option: float(option[1][run]))[0]


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
