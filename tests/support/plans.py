"""Plans of given stages, and random ones whose neurons lie in arbitrary ranges."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.build import identify, join
from partwise.distributor.codecs import CODECS
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import (
    Link,
    Member,
    NeuronShare,
    Part,
    Plan,
    Precision,
    RunnerName,
    Stage,
)
from partwise.distributor.verify import verify_plan
from partwise.model import Model

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """How the parts of a plan are computed."""

    runner: RunnerName = "torch"
    precision: Precision = "fp32"
    plan_version: int = 1


BY_TORCH = Computed()


def put_together(
    model: Model,
    stages: Sequence[Stage],
    computed: Computed = BY_TORCH,
    *,
    server: str = "server",
    links: Sequence[Link] | None = None,
) -> Plan:
    """The verified plan of ``stages``, whose parts are on server0 and so on."""
    names = [member.part for stage in stages for member in stage.members]
    plan = Plan(
        plan_version=computed.plan_version,
        strategy="by hand",
        model=identify(model),
        stages=tuple(stages),
        parts=tuple(
            Part(
                name=name,
                server=f"{server}{i}",
                runner=computed.runner,
                precision=computed.precision,
            )
            for i, name in enumerate(names)
        ),
        links=tuple(join(stages) if links is None else links),
        placements=place_parameters(model, stages),
    )
    verify_plan(plan, model)
    return plan


def find_ranges(owner_of: Sequence[int], member: int) -> Ranges:
    """Which neurons ``member`` owns."""
    is_own = np.concatenate([[False], np.asarray(owner_of) == member, [False]])
    bounds = np.flatnonzero(is_own[1:] != is_own[:-1]).tolist()
    return tuple(zip(bounds[::2], bounds[1::2], strict=True))


def list_owners(plan: Plan, widths: Sequence[int]) -> list[NDArray[np.int64]]:
    """The member that owns each neuron of each layer, where layers have one kind, in one stage."""
    owners = [np.zeros(width, np.int64) for width in widths]
    for i, member in enumerate(plan.stages[0].members):
        for share in member.neurons:
            for layer in filter(share.is_about, range(len(widths))):
                for start, stop in share.ranges:
                    owners[layer][start:stop] = i
    return owners


def deal_neurons(rng: random.Random, count: int, num_members: int) -> list[Ranges]:
    """Each of ``count`` neurons to one member, which may get none, in a few ranges."""
    bounds = sorted({0, count, *(rng.randint(0, count) for _ in range(2 * num_members))})
    ranges: list[list[tuple[int, int]]] = [[] for _ in range(num_members)]
    for start, stop in pairwise(bounds):
        rng.choice(ranges).append((start, stop))
    return [tuple(own) for own in ranges]


def random_members(
    rng: random.Random, model: Model, layers: tuple[int, int], names: Sequence[str]
) -> tuple[Member, ...]:
    """Some of the kinds are split alike in all layers of the stage, some in each layer apart."""
    shares: list[list[NeuronShare]] = [[] for _ in names]
    kinds = {k: i for i in range(*layers) for k in model.layers[i].neuron_kinds}
    for kind, layer in kinds.items():
        way = rng.choice(["alike", "apart", "whole"])
        about = {"alike": None, "apart": (layer, layer + 1)}
        if way != "whole":
            dealt = deal_neurons(rng, kind.count, len(names))
            for own, ranges in zip(shares, dealt, strict=True):
                own.append(NeuronShare(kind=kind.name, ranges=ranges, layers=about[way]))
    if not shares[0] and kinds:  # several members that hold all of it twice are no plan
        kind = next(iter(kinds))
        dealt = deal_neurons(rng, kind.count, len(names))
        for own, ranges in zip(shares, dealt, strict=True):
            own.append(NeuronShare(kind=kind.name, ranges=ranges))
    return tuple(
        Member(part=name, neurons=tuple(own)) for name, own in zip(names, shares, strict=True)
    )


def random_plan(rng: random.Random, model: Model, plan_version: int = 1) -> Plan:
    """A verified plan of up to four stages of up to four members."""
    num_layers = len(model.layers)
    cuts = rng.sample(range(1, num_layers), k=min(rng.randint(0, 3), num_layers - 1))
    bounds = [0, *sorted(cuts), num_layers]
    stages, num_parts = [], 0
    for start, stop in pairwise(bounds):
        has_neurons = any(model.layers[i].neuron_kinds for i in range(start, stop))
        count = rng.randint(1, 4) if has_neurons else 1
        names = [f"part{num_parts + i}" for i in range(count)]
        num_parts += count
        members: tuple[Member, ...] = (Member(part=names[0]),)
        if count > 1:
            members = random_members(rng, model, (start, stop), names)
        stages.append(Stage(start=start, stop=stop, members=members))
    links = [
        Link(source=link.source, target=link.target, codec=rng.choice(CODECS))
        for link in join(stages)
    ]
    return put_together(model, stages, Computed(plan_version=plan_version), links=links)
