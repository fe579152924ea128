"""Which verified plans run today: those whose parts hold their layers whole.

Plans that split layers by neurons can be described and proved already; no runner computes
them yet.
"""

from __future__ import annotations

from partwise.distributor.plan import Plan
from partwise.errors import PlanError


def check_whole(plan: Plan) -> None:
    """Refuse a plan with a stage of several members, or of one that holds some neurons only.

    Raises:
        PlanError: there is one; names its layers.
    """
    for stage in plan.stages:
        count = len(stage.members)
        if count > 1 or any(member.neurons for member in stage.members):
            raise PlanError(
                f"layers {stage.start}:{stage.stop} are split by neurons among {count}"
                f" {'part' if count == 1 else 'parts'}: this partwise runs whole layers; give"
                " the stage one member without neurons"
            )
