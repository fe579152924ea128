"""What a strategy is asked: a model, a cluster, a workload, and the servers in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from partwise.cluster.description import Cluster
from partwise.distributor.plan import Plan
from partwise.distributor.workload import Workload
from partwise.errors import PlanError
from partwise.model.description import Model


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One question to a strategy.

    ``servers`` are those it may use, in the order given. ``allow`` names what it may do to a
    layer that is too large (``int8``, ``int4``, ``sparse``). ``options`` are the strategy's
    own.
    """

    model: Model
    cluster: Cluster
    workload: Workload
    servers: tuple[str, ...]
    allow: frozenset[str] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.servers:
            raise PlanError("a plan needs at least 1 server, got 0: name one")
        if len(set(self.servers)) < len(self.servers):
            twice = next(name for name in self.servers if self.servers.count(name) > 1)
            raise PlanError(f"server {twice!r} is given twice: name each server once")
        for name in self.servers:
            self.cluster.server(name)


class Strategy(Protocol):
    """What a file that holds a strategy exposes."""

    NAME: str
    HELP: str

    def plan(self, problem: Problem) -> Plan:
        """A verified plan.

        Raises:
            Infeasible: no plan of this strategy fits; one line says what is missing.
        """
