"""Where each parameter lives, given the stages: owned, replicated, or an alias.

The rule is one function, so that who makes a plan and who verifies it cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

from partwise.distributor.plan import Placement, Stage
from partwise.model.description import Model, Parameter


def place_parameters(model: Model, stages: Sequence[Stage]) -> tuple[Placement, ...]:
    """One placement for every parameter of ``model``, in its order.

    A parameter whose neurons are split in its stage is owned by all members; another one is
    replicated by them, written by the first. A tied parameter used in several stages is held
    whole by the members of all of them: a stage of several members does not split it.

    ``stages`` tile the layers (`verify.py` proves it).
    """
    stage_of = {i: stage for stage in stages for i in range(stage.start, stage.stop)}
    rows = [(p, stage_of[i]) for i, layer in enumerate(model.layers) for p in layer.parameters]
    users: dict[str, list[Stage]] = {p.name: [stage] for p, stage in rows if p.alias_of is None}
    for parameter, stage in rows:
        if parameter.alias_of is not None and stage not in users[parameter.alias_of]:
            users[parameter.alias_of].append(stage)
    return tuple(
        _place(p, stage_of[i], users.get(p.name, []), split)
        for i, layer in enumerate(model.layers)
        for split in (split_kinds(stage_of[i], i),)
        for p in layer.parameters
    )


def split_kinds(stage: Stage, layer: int) -> frozenset[str]:
    """The kinds of neurons that the members of a stage share among them in layer ``layer``."""
    return frozenset(
        share.kind for member in stage.members for share in member.neurons if share.is_about(layer)
    )


def _place(
    parameter: Parameter, stage: Stage, users: Sequence[Stage], split: frozenset[str]
) -> Placement:
    if parameter.alias_of is not None:
        return Placement(
            parameter=parameter.name, rule="alias", parts=_parts(stage), of=parameter.alias_of
        )
    parts = tuple(part for user in users for part in _parts(user))
    is_split = any(axis.kind in split for axis in parameter.neurons)
    if len(parts) == 1 or (is_split and len(users) == 1):
        return Placement(parameter=parameter.name, rule="owned", parts=parts)
    return Placement(
        parameter=parameter.name,
        rule="replicated",
        parts=parts,
        writer=parts[0],
        gradient="sum",
    )


def _parts(stage: Stage) -> tuple[str, ...]:
    return tuple(member.part for member in stage.members)
