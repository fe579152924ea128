"""Proof that a plan tiles its model: every layer, neuron and parameter in its one place.

It judges no plan's speed and knows no server's memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from typing import TypeVar

from partwise.distributor.member_shares import find_granules
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import MAX_MLP_SPARSITY, Placement, Plan
from partwise.distributor.verify_neurons import verify_neurons
from partwise.errors import PlanError
from partwise.model.description import Model

_Name = TypeVar("_Name", bound=Hashable)
_AGAIN = "make the plan again with `partwise plan`"


def verify_plan(plan: Plan, model: Model, servers: Collection[str] | None = None) -> None:
    """Refuse a plan that does not tile ``model``, or names a server not in ``servers``.

    Raises:
        PlanError: the first contradiction found, with what was expected.
    """
    _check_model(plan, model)
    _check_stages(plan, model)
    _check_parts(plan)
    _check_sparsity(plan)
    _check_servers(plan, servers)
    granules = {p: find_granules(model, p, None) for p in {p.precision for p in plan.parts}}
    needed = {part.name: granules[part.precision] for part in plan.parts}
    for stage in plan.stages:
        verify_neurons(stage, model, needed)
    _check_links(plan)
    _check_placements(plan, model)


def _check_model(plan: Plan, model: Model) -> None:
    if plan.model.fingerprint != model.fingerprint:
        raise PlanError(
            f"the plan is for another model: {plan.model.name} ({plan.model.architecture},"
            f" fingerprint {plan.model.fingerprint}), given is {model.name}"
            f" ({model.architecture}, fingerprint {model.fingerprint}); give the plan's model,"
            f" or {_AGAIN}"
        )
    if plan.model.num_layers != len(model.layers):
        raise PlanError(
            f"the plan says that {model.name} has {plan.model.num_layers} layers, it has"
            f" {len(model.layers)}: {_AGAIN}"
        )


def _check_stages(plan: Plan, model: Model) -> None:
    num_layers = len(model.layers)
    covered = 0
    for i, stage in enumerate(plan.stages):
        where = f"stage {i} holds layers {stage.start}:{stage.stop}"
        if not 0 <= stage.start < stage.stop <= num_layers:
            raise PlanError(
                f"{where}, out of range: {model.name} has layers 0:{num_layers}; {_AGAIN}"
            )
        if stage.start < covered:
            raise PlanError(
                f"{where}, which overlaps the stages before it (they end at layer {covered}):"
                f" start it at {covered}, or {_AGAIN}"
            )
        if stage.start > covered:
            raise _gap(model, covered, stage.start)
        covered = stage.stop
    if covered < num_layers:
        raise _gap(model, covered, num_layers)


def _gap(model: Model, start: int, stop: int) -> PlanError:
    return PlanError(
        f"the plan has a gap: no stage holds layers {start}:{stop}"
        f" ({model.describe_range(start, stop)}); {_AGAIN}"
    )


def _check_parts(plan: Plan) -> None:
    """Every part has a name of its own and is a member of exactly one stage."""
    names = [part.name for part in plan.parts]
    for name in _repeated(names):
        raise PlanError(f"the plan lists part {name!r} twice: name each part differently")
    members: Counter[str] = Counter()
    for i, stage in enumerate(plan.stages):
        if not stage.members:
            raise PlanError(
                f"stage {i} (layers {stage.start}:{stage.stop}) has no member: {_AGAIN}"
            )
        members.update(member.part for member in stage.members)
    for name, count in members.items():
        if name not in names:
            raise PlanError(
                f"a stage has the member {name!r}, which is not a part of the plan (its parts are"
                f" {plan.part_names}): {_AGAIN}"
            )
        if count > 1:
            raise PlanError(
                f"part {name!r} is a member of {count} stages, expected exactly 1: {_AGAIN}"
            )
    for name in names:
        if name not in members:
            raise PlanError(f"part {name!r} is a member of no stage: remove it, or {_AGAIN}")


def _check_sparsity(plan: Plan) -> None:
    for part in plan.parts:
        if not 0 <= part.mlp_sparsity <= MAX_MLP_SPARSITY:
            raise PlanError(
                f"part {part.name!r} lacks {part.mlp_sparsity:g} of its MLP units, out of range:"
                f" the share may be 0 to {MAX_MLP_SPARSITY}; {_AGAIN}"
            )


def _check_servers(plan: Plan, servers: Collection[str] | None) -> None:
    part_on: dict[str, str] = {}
    for part in plan.parts:
        if servers is not None and part.server not in servers:
            raise PlanError(
                f"part {part.name!r} is on the unknown server {part.server!r}: known are"
                f" {', '.join(servers)}; start it, or {_AGAIN}"
            )
        if part.server in part_on:
            raise PlanError(
                f"parts {part_on[part.server]!r} and {part.name!r} are both on server"
                f" {part.server!r}, which hosts 1: give each part a server of its own"
            )
        part_on[part.server] = part.name


def _check_links(plan: Plan) -> None:
    """Each stage's parts feed the next stage's, once."""
    found = [(link.source, link.target) for link in plan.links]
    expected = {
        (source.part, target.part)
        for before, after in zip(plan.stages, plan.stages[1:], strict=False)
        for source in before.members
        for target in after.members
    }
    for source, target in _repeated(found):
        raise PlanError(f"the link from {source!r} to {target!r} is listed twice: {_AGAIN}")
    for source, target in sorted(expected - set(found)):
        raise PlanError(
            f"no link from {source!r} to {target!r}, which holds the next layers: {_AGAIN}"
        )
    for source, target in sorted(set(found) - expected):
        raise PlanError(
            f"the link from {source!r} to {target!r} joins parts that are not in consecutive"
            f" stages: {_AGAIN}"
        )


def _check_placements(plan: Plan, model: Model) -> None:
    """Every parameter is placed once, and as the stages demand."""
    demanded = place_parameters(model, plan.stages)
    if plan.placements == demanded:
        return
    for name in _repeated(placement.parameter for placement in plan.placements):
        raise PlanError(f"parameter {name!r} is placed twice: {_AGAIN}")
    found = {placement.parameter: placement for placement in plan.placements}
    for expected in demanded:
        placement = found.pop(expected.parameter, None)
        if placement is None:
            raise PlanError(
                f"parameter {expected.parameter!r} is not placed, expected {_say(expected)}:"
                f" {_AGAIN}"
            )
        if placement != expected:
            raise PlanError(
                f"parameter {expected.parameter!r} is {_say(placement)}, expected"
                f" {_say(expected)}: {_AGAIN}"
            )
    for name in found:
        raise PlanError(
            f"the plan places {name!r}, which is no parameter of {model.name}: {_AGAIN}"
        )


def _say(placement: Placement) -> str:
    words = f"{placement.rule} by {', '.join(placement.parts)}"
    if placement.of is not None:
        words += f" of {placement.of}"
    if placement.writer is not None:
        words += f" (writer {placement.writer})"
    return f"{words}, gradient {placement.gradient}"


def _repeated(names: Iterable[_Name]) -> list[_Name]:
    return [name for name, count in Counter(names).items() if count > 1]
