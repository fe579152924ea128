"""What a run over a cluster is expected to do, to be shown beside what it did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.cluster import Cluster
    from partwise.distributor.cost import Prediction
    from partwise.distributor.plan import Plan
    from partwise.model.description import Model


def plan_for_run(
    path: Path, cluster: Cluster, version: int = 0, *, precision: str = "fp32"
) -> Plan:
    """The plan for one stream over ``cluster`` that today's runners run: layers whole.
    ``version`` is that of the model's parameters, ``precision`` that of its weights.

    Raises:
        ModelError, PlanError: the model cannot be deployed so.
    """
    from partwise.cli.plan import choose_context
    from partwise.distributor.problem import Problem
    from partwise.distributor.strategies import STRATEGIES
    from partwise.distributor.workload import Workload
    from partwise.store import open_version

    model = open_version(path, version)
    problem = Problem(
        model=model,
        cluster=cluster,
        workload=Workload(context_tokens=choose_context(None, model), precision=precision),
        servers=tuple(server.name for server in cluster.servers),
    )
    return STRATEGIES["balanced"].plan(problem)


def find_addresses(plan: Plan) -> list[str]:
    """The servers of ``plan``, where they listen; none where they are this machine's own."""
    names = [part.server for part in plan.parts]
    return names if any(":" in name for name in names) else []


def choose_threads(plan: Plan, cluster: Cluster) -> int:
    """The threads that the cluster gives each server of ``plan``: no more than the cores of any
    of their hosts have for them.

    Raises:
        ClusterError: the plan names a server that the cluster does not have.
        UsageError: it gives them different numbers.
    """
    from partwise.distributor.speed import fit_threads

    servers = [cluster.server(part.server) for part in plan.parts]
    given = sorted({server.threads for server in servers})
    if len(given) > 1:
        raise UsageError(
            f"the servers of the cluster have {', '.join(map(str, given))} threads, a run gives"
            " all the same: give --threads"
        )
    used = Counter(server.host for server in servers)
    cores = {server.host: cluster.host_of(server.name).cores for server in servers}
    return min(fit_threads(given[0], given[0] * count, cores[host]) for host, count in used.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What ``plan`` is expected to do on ``cluster`` with so many threads a server."""

    plan: Plan
    model: Model
    cluster: Cluster
    threads: int

    def predict(self, prompt_tokens: int, num_tokens: int) -> Prediction:
        """The prediction for one stream that decodes ``num_tokens`` after its prompt.

        Raises:
            PlanError: a host gives no rates for fp32.
        """
        from partwise.distributor.cost import predict
        from partwise.distributor.workload import Workload

        servers = tuple(replace(s, threads=self.threads) for s in self.cluster.servers)
        # The cost model takes half of the context as past: that of the middle token.
        workload = Workload(context_tokens=2 * prompt_tokens + num_tokens)
        return predict(self.plan, self.model, replace(self.cluster, servers=servers), workload)
