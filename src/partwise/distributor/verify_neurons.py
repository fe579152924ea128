"""Proof that the members of one stage own each neuron of its layers exactly once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from partwise.distributor.claims import check_claims, find_nearest
from partwise.distributor.placement import list_runs
from partwise.distributor.plan import NeuronShare, Stage
from partwise.errors import PlanError
from partwise.model.description import Model, NeuronKind, Parameter

Granules = Mapping[str, Mapping[str, int]]
"""By part, the neurons of a kind that its precision keeps together."""


def verify_neurons(stage: Stage, model: Model, granules: Granules) -> None:
    """Refuse a stage whose members do not tile the neurons of the kinds that they split.

    Kinds that no member names are not split: their parameters are replicated.

    Raises:
        PlanError: an unknown kind, neurons or layers out of range, off the granule, claimed
            twice or owned by nobody, a member of several that holds the layers whole or says
            nothing of a kind that the others split, or tied parameters that are split apart.
    """
    where = f"of layers {stage.start}:{stage.stop}"
    whole = [member.part for member in stage.members if not member.neurons]
    if whole and len(stage.members) > 1:
        raise PlanError(
            f"part {whole[0]!r} owns all neurons {where}, so the {len(stage.members) - 1} other"
            " members own them twice: give each member its neurons"
        )
    if whole:
        return
    _check_layers(stage, model)
    proved: set[tuple[str, int, frozenset[tuple[str, tuple[int, int] | None]]]] = set()
    for start, stop in list_runs(stage):
        about = _find_shares(stage, start)
        for kind, layer in _find_first(model, start, stop).items():
            claims = about.get(kind.name, [])
            key = (kind.name, kind.count, frozenset((part, share.layers) for part, share in claims))
            if claims and key not in proved:
                is_everywhere = all(share.layers is None for _, share in claims)
                place = where if is_everywhere else f"of layer {layer}"
                _check_all_named(stage, claims, f"{kind.name} {place}")
                _check_kind(claims, kind, place, granules)
                proved.add(key)
    _check_tied(stage, model)


def _check_layers(stage: Stage, model: Model) -> None:
    """Every share is about a kind that layers of the stage have, and about such layers."""
    kinds_of = {
        i: {kind.name for kind in model.layers[i].neuron_kinds}
        for i in range(stage.start, stage.stop)
    }
    known = sorted(set().union(*kinds_of.values()))
    checked: set[tuple[str, tuple[int, int] | None]] = set()
    for share in (share for member in stage.members for share in member.neurons):
        if (share.kind, share.layers) in checked:
            continue
        checked.add((share.kind, share.layers))
        if share.kind not in known:
            raise PlanError(
                f"unknown neuron kind {share.kind!r}: the kinds of layers"
                f" {stage.start}:{stage.stop} are {', '.join(known)}"
            )
        start, stop = share.layers or (stage.start, stage.stop)
        if not stage.start <= start < stop <= stage.stop:
            raise PlanError(
                f"neurons {share.kind} are shared in layers {start}:{stop}, out of range: the"
                f" stage holds layers {stage.start}:{stage.stop}; correct them"
            )


def _find_first(model: Model, start: int, stop: int) -> dict[NeuronKind, int]:
    """The kinds of some layers, and for each the first layer that has it."""
    first: dict[NeuronKind, int] = {}
    for layer in range(start, stop):
        for kind in model.layers[layer].neuron_kinds:
            first.setdefault(kind, layer)
    return first


def _find_shares(stage: Stage, layer: int) -> dict[str, list[tuple[str, NeuronShare]]]:
    """(part, share) of all members that are about one layer, by kind."""
    about: dict[str, list[tuple[str, NeuronShare]]] = {}
    for member in stage.members:
        for share in member.neurons:
            if share.is_about(layer):
                about.setdefault(share.kind, []).append((member.part, share))
    return about


def _check_all_named(stage: Stage, claims: Sequence[tuple[str, NeuronShare]], what: str) -> None:
    """A member that names no neurons of a kind holds all: no other one may split it then."""
    named = {part for part, _ in claims}
    for member in stage.members:
        if member.part not in named:
            raise PlanError(
                f"part {member.part!r} says nothing of {what}, which {claims[0][0]!r} splits:"
                " give it its neurons, or an empty list"
            )


def _check_kind(
    shares: Sequence[tuple[str, NeuronShare]], kind: NeuronKind, where: str, granules: Granules
) -> None:
    """Each neuron of ``kind`` is owned by one member."""
    claims: list[tuple[int, int, str]] = []
    for part, share in shares:
        needed = granules.get(part, {}).get(kind.name, 1)
        _check_bounds(share, kind.count, f"part {part!r} owns {kind.name}", needed)
        claims += [(start, stop, part) for start, stop in share.ranges]
    check_claims(claims, kind.count, kind.name, where)


def _check_tied(stage: Stage, model: Model) -> None:
    """The neurons of tied parameters of one stage are owned alike in both of their layers."""
    layer_of = {
        parameter.name: i
        for i in range(stage.start, stage.stop)
        for parameter in model.layers[i].parameters
    }
    for i in range(stage.start, stage.stop):
        for parameter in model.layers[i].parameters:
            if parameter.alias_of in layer_of:
                other = layer_of[parameter.alias_of]
                if _list_owned(stage, parameter, i) != _list_owned(stage, parameter, other):
                    raise PlanError(
                        f"{parameter.name!r} is tied to {parameter.alias_of!r}, but layers {other}"
                        f" and {i} share their neurons differently: share them alike"
                    )


def _list_owned(
    stage: Stage, parameter: Parameter, layer: int
) -> set[tuple[str, str, tuple[tuple[int, int], ...]]]:
    kinds = {axis.kind for axis in parameter.neurons}
    return {
        (part, kind, share.ranges)
        for kind, shares in _find_shares(stage, layer).items()
        for part, share in shares
        if kind in kinds
    }


def _check_bounds(share: NeuronShare, count: int, who: str, needed: int) -> None:
    """``needed`` is the granule of the part's precision, whatever the share says."""
    if share.granule < 1:
        raise PlanError(
            f"{who} with a granule of {share.granule}, expected at least 1: set it to 1"
        )
    last, granule = 0, math.lcm(share.granule, needed)
    for start, stop in share.ranges:
        if not 0 <= start < stop <= count:
            raise PlanError(f"{who} {start}:{stop}, out of range: there are 0:{count}; correct it")
        if start < last:
            raise PlanError(
                f"{who} {start}:{stop} after a range that ends at {last}: list ranges ascending"
                " and disjoint"
            )
        last = stop
        for bound in (start, stop):
            if bound % granule and bound != count:
                raise PlanError(
                    f"{who} {start}:{stop}, but {bound} is not a multiple of the granule"
                    f" {granule}: the nearest that fits is {find_nearest(bound, granule, count)}"
                )
