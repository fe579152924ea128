"""Which verified plans run today: those whose parts hold their layers whole.

Plans that split layers by neurons, or reduce them, can be described and proved already; no
runner computes them yet.
"""

from __future__ import annotations

from partwise.distributor.plan import Plan
from partwise.distributor.runners import RUNS
from partwise.errors import PlanError


def check_whole(plan: Plan) -> None:
    """Refuse a plan with a stage of several members, or of one that holds some neurons only,
    or with a part at a precision that its runner does not compute, or without some of its MLP
    units.

    Raises:
        PlanError: there is one; names its layers or the part.
    """
    for stage in plan.stages:
        count = len(stage.members)
        if count > 1 or any(member.neurons for member in stage.members):
            raise PlanError(
                f"layers {stage.start}:{stage.stop} are split by neurons among {count}"
                f" {'part' if count == 1 else 'parts'}: this partwise runs whole layers; give"
                " the stage one member without neurons"
            )
    for part in plan.parts:
        runs = RUNS[part.runner]
        if part.precision not in runs or part.mlp_sparsity:
            removed = f" without {100 * part.mlp_sparsity:g} % of its MLP units"
            raise PlanError(
                f"{part.name} is at {part.precision}{removed if part.mlp_sparsity else ''}: the"
                f" {part.runner} runner computes whole layers in {', '.join(runs)}; plan with one"
                " of these and without --allow sparse"
            )
