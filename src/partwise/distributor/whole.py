"""Which verified plans run today: those of which a runner computes every part.

A part holds its layers whole, or shares their neurons with the other members of its stage. Parts
whose layers are reduced can be described and proved already; no runner computes them yet.
"""

from __future__ import annotations

from partwise.distributor.plan import Plan, Stage
from partwise.distributor.runners import RUNS
from partwise.errors import PlanError
from partwise.model.families.family import KV_GROUP, MLP_UNIT, VOCABULARY_ROW

SPLITS: dict[str, tuple[str, ...]] = {
    "torch": (KV_GROUP, MLP_UNIT, "expert", VOCABULARY_ROW),
    "onnx": (KV_GROUP, MLP_UNIT, VOCABULARY_ROW),
}
"""The kinds of neurons of which each runner computes some only."""


def check_whole(plan: Plan) -> None:
    """Refuse a plan with a stage whose members do not share its neurons as their runners compute
    them, or with a part at a precision that its runner does not compute, or without some of its
    MLP units.

    Raises:
        PlanError: there is one; names its layers or the part.
    """
    for stage in plan.stages:
        _check_stage(plan, stage)
    for part in plan.parts:
        runs = RUNS[part.runner]
        if part.precision not in runs or part.mlp_sparsity:
            removed = f" without {100 * part.mlp_sparsity:g} % of its MLP units"
            raise PlanError(
                f"{part.name} is at {part.precision}{removed if part.mlp_sparsity else ''}: the"
                f" {part.runner} runner computes whole layers in {', '.join(runs)}; plan with one"
                " of these and without --allow sparse"
            )


def _check_stage(plan: Plan, stage: Stage) -> None:
    where, count = f"layers {stage.start}:{stage.stop}", len(stage.members)
    shares = [(m.part, share) for m in stage.members for share in m.neurons]
    if count == 1 and shares:
        raise PlanError(
            f"{where} are split by neurons among 1 part: give the stage one member without"
            " neurons, or more members"
        )
    if count > 1 and not shares:
        raise PlanError(
            f"{where} have {count} members and nothing is split among them: give the stage one"
            " member, or each its neurons"
        )
    for part, share in shares:
        runner = plan.part(part).runner
        if share.kind not in SPLITS[runner]:
            raise PlanError(
                f"{part} shares the neurons {share.kind!r} of {where}: the {runner} runner computes"
                f" shares of {', '.join(SPLITS[runner])}; do not split others"
            )
