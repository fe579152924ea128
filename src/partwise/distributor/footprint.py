"""What a layer or a part takes of a server's memory."""

from __future__ import annotations

from dataclasses import dataclass

from partwise.distributor.plan import Plan
from partwise.distributor.workload import Workload
from partwise.model.description import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory by what it holds, in bytes.

    Weights, KV caches and what training keeps add up over layers; ``activation_bytes`` and
    ``buffer_bytes`` are reused from layer to layer, so a part needs its largest.
    """

    weight_bytes: int = 0
    kv_bytes: int = 0
    activation_bytes: int = 0
    buffer_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    saved_activation_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return (
            self.weight_bytes
            + self.kv_bytes
            + self.activation_bytes
            + self.buffer_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.saved_activation_bytes
        )


def layer_footprint(model: Model, index: int, workload: Workload) -> Footprint:
    """What layer ``index`` takes, held whole."""
    raise NotImplementedError


def part_footprint(plan: Plan, model: Model, part: str, workload: Workload) -> Footprint:
    """What the part called ``part`` takes."""
    raise NotImplementedError
