"""Which verified plans run today: those whose parts hold their layers whole, in fp32.

Plans that split layers by neurons, or reduce them, can be described and proved already; no
runner computes them yet.
"""

from __future__ import annotations

from partwise.distributor.plan import Plan
from partwise.errors import PlanError


def check_whole(plan: Plan) -> None:
    """Refuse a plan with a stage of several members, or of one that holds some neurons only,
    or with a part at another precision than fp32 or without some of its MLP units.

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
        if part.precision != "fp32" or part.mlp_sparsity:
            removed = f" without {100 * part.mlp_sparsity:g} % of its MLP units"
            raise PlanError(
                f"{part.name} is at {part.precision}{removed if part.mlp_sparsity else ''}: this"
                " partwise runs whole layers in fp32; plan with fp32 and without --allow"
            )
