"""Proof that the members of one stage own each neuron of its layers exactly once."""

from __future__ import annotations

from partwise.distributor.placement import split_kinds
from partwise.distributor.plan import NeuronShare, Stage
from partwise.errors import PlanError
from partwise.model.description import Model


def verify_neurons(stage: Stage, model: Model) -> None:
    """Refuse a stage whose members do not tile the neurons of the kinds that they split.

    Kinds that no member names are not split: their parameters are replicated.

    Raises:
        PlanError: an unknown kind, neurons out of range, off the granule, claimed twice or
            owned by nobody, or several members of which one holds the layers whole.
    """
    where = f"of layers {stage.start}:{stage.stop}"
    whole = [member.part for member in stage.members if not member.neurons]
    if whole and len(stage.members) > 1:
        raise PlanError(
            f"part {whole[0]!r} owns all neurons {where}, so the {len(stage.members) - 1} other"
            " members own them twice: give each member its neurons"
        )
    counts = _count_kinds(stage, model)
    for kind in sorted(split_kinds(stage)):
        if kind not in counts:
            raise PlanError(
                f"unknown neuron kind {kind!r}: the kinds {where} are {', '.join(sorted(counts))}"
            )
        for count in sorted(counts[kind]):
            _check_kind(stage, kind, count, where)


def _count_kinds(stage: Stage, model: Model) -> dict[str, set[int]]:
    counts: dict[str, set[int]] = {}
    for layer in model.layers[stage.start : stage.stop]:
        for kind in layer.neuron_kinds:
            counts.setdefault(kind.name, set()).add(kind.count)
    return counts


def _check_kind(stage: Stage, kind: str, count: int, where: str) -> None:
    """``count`` neurons of ``kind`` are each owned by one member."""
    claims: list[tuple[int, int, str]] = []
    for member in stage.members:
        for share in member.neurons:
            if share.kind == kind:
                _check_bounds(share, count, f"part {member.part!r} owns {kind}")
                claims += [(start, stop, member.part) for start, stop in share.ranges]
    covered, holder = 0, ""
    for start, stop, part in sorted(claims):
        if start < covered:
            raise PlanError(
                f"{kind} {start}:{min(stop, covered)} {where} is claimed twice, by {holder!r} and"
                f" {part!r}: give it to one"
            )
        if start > covered:
            raise _nobody(kind, covered, start, where)
        covered, holder = stop, part
    if covered < count:
        raise _nobody(kind, covered, count, where)


def _nobody(kind: str, start: int, stop: int, where: str) -> PlanError:
    return PlanError(f"{kind} {start}:{stop} {where} is owned by nobody: give it to a member")


def _check_bounds(share: NeuronShare, count: int, who: str) -> None:
    if share.granule < 1:
        raise PlanError(
            f"{who} with a granule of {share.granule}, expected at least 1: set it to 1"
        )
    last = 0
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
            if bound % share.granule and bound != count:
                raise PlanError(
                    f"{who} {start}:{stop}, but {bound} is not a multiple of the granule"
                    f" {share.granule}: the nearest that fits is"
                    f" {_nearest(bound, share.granule, count)}"
                )


def _nearest(bound: int, granule: int, count: int) -> int:
    below = bound // granule * granule
    above = min(below + granule, count)
    return below if bound - below <= above - bound else above
