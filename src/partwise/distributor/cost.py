"""What a plan is predicted to cost: time, bytes and energy, and what binds each part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from partwise.cluster.description import Cluster
from partwise.distributor.plan import Plan
from partwise.distributor.workload import Workload
from partwise.model.description import Model

Bound = Literal["bandwidth", "compute", "overhead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost:
    """One pass of one microbatch through one part, at the workload's streams.

    ``hop_s`` and ``hop_bytes`` are those of what it receives from the stage before.
    """

    part: str
    server: str
    compute_s: float
    bound_by: Bound
    working_set_bytes: int
    cache_bytes: int | None
    exchange_s: float
    hop_s: float
    hop_bytes: int
    memory_bytes: int

    @property
    def busy_s(self) -> float:
        """Seconds for which a pass keeps the part busy."""
        return self.compute_s + self.exchange_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a plan costs.

    ``latency_s`` is one token of one stream alone; ``tokens_per_s`` is over all the
    workload's streams. ``joules_per_token`` and ``watts`` are None where a host gives none.
    """

    parts: tuple[PartCost, ...]
    latency_s: float
    tokens_per_s: float
    num_microbatches: int
    rows: int
    hop_bytes_per_token: int
    watts: float | None
    joules_per_token: float | None


def predict(plan: Plan, model: Model, cluster: Cluster, workload: Workload) -> Prediction:
    """What ``plan`` costs on ``cluster``."""
    raise NotImplementedError


def one_machine(model: Model, cluster: Cluster, workload: Workload) -> Prediction | None:
    """The prediction of the best single server that holds all of ``model``; None: none does."""
    raise NotImplementedError
