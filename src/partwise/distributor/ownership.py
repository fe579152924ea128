"""Which share of the neurons in its layers each part of a plan owns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from partwise.distributor.holding import count_all_neurons
from partwise.distributor.plan import Member, Plan, Stage
from partwise.model.description import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Shares between 0 and 1 of the layers of a part's stage.

    ``by_kind`` counts neurons; ``of_weights`` counts the weights that belong to neurons, so
    that kinds weigh what they hold. A part that holds its layers whole owns all: 1.
    """

    by_kind: Mapping[str, float]
    of_weights: float


def measure_ownership(plan: Plan, model: Model, part: str) -> Ownership:
    """What the part called ``part`` owns under a verified plan.

    Raises:
        PlanError: the plan has no such part.
    """
    stage = plan.stage_of(part)
    member = next(m for m in stage.members if m.part == part)
    owned: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for i in range(stage.start, stage.stop):
        counts = count_all_neurons(member, i)
        for kind in model.layers[i].neuron_kinds:
            owned[kind.name] += counts.get(kind.name, kind.count)
            total[kind.name] += kind.count
    return Ownership(
        by_kind={kind: owned[kind] / total[kind] for kind in total},
        of_weights=_weigh(model, stage, member),
    )


def _weigh(model: Model, stage: Stage, member: Member) -> float:
    """The share of the weights of its stage that belong to the member's neurons."""
    owned, total = 0.0, 0
    for i in range(stage.start, stage.stop):
        layer, counts = model.layers[i], count_all_neurons(member, i)
        num_neurons = {kind.name: kind.count for kind in layer.neuron_kinds}
        for parameter in layer.parameters:
            if parameter.neurons:
                # All neurons of a parameter are of one kind.
                kind = parameter.neurons[0].kind
                share = counts.get(kind, num_neurons[kind]) / num_neurons[kind]
                owned += share * parameter.num_elements
                total += parameter.num_elements
    return owned / total if total else 1.0
