"""What of its host's cache a server may fill, and what layers would fill of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from partwise.distributor.load import measure_layer
from partwise.distributor.problem import Problem
from partwise.errors import Infeasible


def share_of_cache(problem: Problem, server_name: str) -> int:
    """The cache in bytes that a server has of its host's, which its servers share evenly.

    Raises:
        Infeasible: the host's cache is not known.
    """
    host = problem.cluster.host_of(server_name)
    if host.cache_bytes is None:
        raise Infeasible(
            f"host {host.name!r} of server {server_name!r} has no cache_bytes: probe it, or plan"
            " without --cache-fit"
        )
    sharers = [problem.cluster.server(name).host for name in problem.servers]
    return host.cache_bytes // sharers.count(host.name)


def sum_working_sets(problem: Problem) -> Sequence[float]:
    """Bytes that the first 0, 1, 2, ... layers read again and again."""
    workload = problem.workload
    loads = (measure_layer(layer, workload.mlp_sparsity) for layer in problem.model.layers)
    sets = (load.working_set_bytes(workload) for load in loads)
    return list(accumulate(sets, initial=0.0))
