"""The strategy ``compute``: each server owns neurons in proportion to what it can compute."""

from __future__ import annotations

from partwise.distributor.by_count import plan_by_weight
from partwise.distributor.footprint import count_tokens
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import plan_or_say
from partwise.errors import Infeasible

NAME = "compute"
HELP = "by neurons: of each kind, in every layer, in proportion to each server's MAC rate"


def plan(problem: Problem) -> Plan:
    """One stage of all layers, its neurons shared in proportion to `mac_rate`.

    It looks at no memory bandwidth; options as in `by_count`.

    Raises:
        Infeasible: a host has no rate at the precision, or too little memory.
    """
    return plan_or_say(problem, find)


def find(problem: Problem) -> Plan:
    """The plan without a word on what would help where it does not fit.

    Raises:
        Infeasible: see `plan`.
    """
    return plan_by_weight(problem, NAME, [mac_rate(problem, name) for name in problem.servers])


def mac_rate(problem: Problem, server_name: str) -> float:
    """Multiply-accumulates per second that a server computes, for a row of each stream or, in
    training, for the tokens of a microbatch.

    Between one core and all of them the rate is taken to rise evenly with the threads; where
    the servers of a host have more threads than it has cores, they share its rate by threads.

    Raises:
        Infeasible: its host has no rate at the workload's precision.
    """
    server, host = problem.cluster.server(server_name), problem.cluster.host_of(server_name)
    rates = host.rates.get(problem.workload.precision)
    if rates is None:
        raise Infeasible(
            f"host {host.name!r} of server {server_name!r} has no rate at"
            f" {problem.workload.precision}, only at {', '.join(sorted(host.rates))}: probe it, or"
            " plan for one of these"
        )
    workload = problem.workload
    rows = count_tokens(workload) if workload.is_training else workload.streams
    one, every = rates.one_core_macs_per_s.at(rows), rates.all_cores_macs_per_s.at(rows)
    others = [problem.cluster.server(name) for name in problem.servers]
    num_threads = sum(other.threads for other in others if other.host == host.name)
    threads = server.threads * min(1.0, host.cores / num_threads)
    if host.cores == 1 or threads <= 1:
        return one * threads
    return one + (every - one) * (threads - 1) / (host.cores - 1)
