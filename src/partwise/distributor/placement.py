"""Where each parameter lives, given the stages: owned, replicated, or an alias.

The rule is one function, so that who makes a plan and who verifies it cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from partwise.distributor.plan import Placement, Stage
from partwise.model.description import Model, Parameter


def place_parameters(model: Model, stages: Sequence[Stage]) -> tuple[Placement, ...]:
    """One placement for every parameter of ``model``, in its order.

    A parameter whose neurons are split in its stage is owned by all members; another one is
    replicated by them, written by the first. A tied parameter used in several stages is held
    whole by the members of all of them: a stage of several members does not split it.

    ``stages`` tile the layers (`verify.py` proves it).
    """
    users = _find_users(model, stages)
    placements = []
    for stage in stages:
        parts = _parts(stage)
        for start, stop in list_runs(stage):
            split = split_kinds(stage, start)
            for parameter in (p for layer in model.layers[start:stop] for p in layer.parameters):
                others = users.get(parameter.name, [])
                if parameter.alias_of is None and len(parts) == 1 and not others:
                    # So it is with nearly all parameters of large models.
                    placed = Placement(parameter=parameter.name, rule="owned", parts=parts)
                else:
                    placed = _place(parameter, parts, [s for s in others if s is not stage], split)
                placements.append(placed)
    return tuple(placements)


def _find_users(model: Model, stages: Sequence[Stage]) -> dict[str, list[Stage]]:
    """The stages of the aliases of each parameter that has some."""
    users: dict[str, list[Stage]] = {}
    for stage in stages:
        for layer in model.layers[stage.start : stage.stop]:
            for parameter in layer.parameters:
                if parameter.alias_of is not None:
                    found = users.setdefault(parameter.alias_of, [])
                    found += [stage] if stage not in found else []
    return users


def list_runs(stage: Stage) -> list[tuple[int, int]]:
    """Its layers in runs, start and stop, in which the same shares say what members own."""
    spans = {share.layers for member in stage.members for share in member.neurons if share.layers}
    bounds = {stage.start, stage.stop}.union(*spans)
    return list(pairwise(sorted(bound for bound in bounds if stage.start <= bound <= stage.stop)))


def split_kinds(stage: Stage, layer: int) -> frozenset[str]:
    """The kinds of neurons that the members of a stage share among them in layer ``layer``."""
    return frozenset(
        share.kind for member in stage.members for share in member.neurons if share.is_about(layer)
    )


def _place(
    parameter: Parameter, own: tuple[str, ...], others: Sequence[Stage], split: frozenset[str]
) -> Placement:
    """The placement of a parameter of a stage of the parts ``own``, used in ``others`` too."""
    if parameter.alias_of is not None:
        return Placement(parameter=parameter.name, rule="alias", parts=own, of=parameter.alias_of)
    parts = own
    for other in others:
        parts += _parts(other)
    # All neurons of a parameter are of one kind.
    is_split = bool(parameter.neurons) and parameter.neurons[0].kind in split
    if len(parts) == 1 or (is_split and not others):
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
