"""A plan's stages, pass by pass: every runner a thread, members of a stage all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from partwise.distributor import verify_plan
from partwise.distributor.build import build_plan, name_parts
from partwise.distributor.plan import Member, NeuronShare, Plan, Stage
from partwise.model import Model, open_model
from partwise.part.exchange import Exchange
from partwise.part.runner import Runner, RunnerFactory, RunnerOptions
from partwise.remote.frame import Row
from partwise.remote.layout import Array
from partwise.store import Store
from support.exchange import ThreadExchange, join_threads, run_members
from support.planning import make_problem
from support.plans import find_ranges

Owners = Mapping[str, Sequence[int]]
"""By kind of neurons, the member that owns each of them."""


def plan_owners(model: Model, num_members: int, owners: Mapping[int, Owners]) -> Plan:
    """A plan of one stage: ``owners`` by layer; kinds that it leaves out are not split."""
    shares: list[list[NeuronShare]] = [[] for _ in range(num_members)]
    for layer, by_kind in owners.items():
        for kind, owner_of in by_kind.items():
            for member, mine in enumerate(shares):
                ranges = find_ranges(owner_of, member)
                mine.append(NeuronShare(kind=kind, ranges=ranges, layers=(layer, layer + 1)))
    return plan_stages(model, [(0, len(model.layers), shares)])


def plan_stages(
    model: Model, stages: Sequence[tuple[int, int, Sequence[Sequence[NeuronShare]]]]
) -> Plan:
    """A plan of (start, stop, the shares of each member)."""
    servers = [f"s{i}" for i in range(sum(len(members) for _, _, members in stages))]
    parts = iter(name_parts(servers).values())
    made = tuple(
        Stage(
            start=start,
            stop=stop,
            members=tuple(Member(part=next(parts), neurons=tuple(shares)) for shares in members),
        )
        for start, stop, members in stages
    )
    return build_plan(make_problem(model, len(servers)), "by hand", made, servers)


class Stages:
    """The runners of a plan. ``exchanges`` of those that are members of a stage of several."""

    def __init__(self, path: Path, plan: Plan, make_runner: RunnerFactory) -> None:
        self._model = open_model(path)
        verify_plan(plan, self._model)
        self._path = path
        self._plan = plan
        self._make_runner = make_runner
        self.exchanges: list[ThreadExchange] = []
        self.runners = [self._make_stage(stage) for stage in plan.stages]

    def run(self, rows: Sequence[Row], ids: Sequence[int]) -> tuple[Array, ...]:
        """One pass through all stages; all members of a stage must say the same, bit for bit."""
        tensors: tuple[Array, ...] = (np.array(ids, np.int64),)
        for runners in self.runners:
            tensors = _run_stage(runners, rows, tensors)
        return tensors

    def release(self, sequences: Sequence[int]) -> None:
        """At all parts."""
        for runners in self.runners:
            for runner in runners:
                runner.release(sequences)

    def _make_stage(self, stage: Stage) -> list[Runner]:
        count = len(stage.members)
        exchanges: list[ThreadExchange] = join_threads(count) if count > 1 else []
        self.exchanges += exchanges
        given: list[Exchange | None] = [*exchanges] or [None]
        return run_members(lambda i: self._make(stage.members[i].part, given[i]), count)

    def _make(self, part: str, exchange: Exchange | None) -> Runner:
        with Store.open(self._path) as store:
            return self._make_runner(
                RunnerOptions(
                    plan=self._plan,
                    part=part,
                    model=self._model,
                    model_path=self._path,
                    store=store,
                    threads=1,
                    on_progress=lambda done_bytes, total_bytes: None,
                    exchange=exchange,
                )
            )


def _run_stage(
    runners: Sequence[Runner], rows: Sequence[Row], tensors: tuple[Array, ...]
) -> tuple[Array, ...]:
    def run(member: int) -> tuple[Array, ...]:
        torch.set_num_threads(1)
        given = [tensor.copy() for tensor in tensors]
        return runners[member].run(rows, given, lambda: None)

    first, *others = run_members(run, len(runners))
    for other in others:
        assert [tensor.tobytes() for tensor in other] == [tensor.tobytes() for tensor in first]
    return first
