"""What of its host's cache a server may fill, where plans are asked to fit it."""

from __future__ import annotations

from collections import Counter

from partwise.cluster.description import Host
from partwise.distributor.problem import Problem
from partwise.errors import Infeasible


def find_cache_limits(problem: Problem) -> list[int] | None:
    """Bytes that each server may read again and again; None without the option ``cache_fit``.

    A server has of its host's cache what its servers share evenly.

    Raises:
        Infeasible: it is asked, and a host's cache is not known.
    """
    if not problem.options.get("cache_fit"):
        return None
    sharers = Counter(problem.cluster.server(name).host for name in problem.servers)
    return [_share(problem, name, sharers) for name in problem.servers]


def share_of_cache(problem: Problem, server_name: str) -> int:
    """The cache in bytes that a server has of its host's, which its servers share evenly.

    Raises:
        Infeasible: the host's cache is not known.
    """
    sharers = Counter(problem.cluster.server(name).host for name in problem.servers)
    return _share(problem, server_name, sharers)


def share_cache(host: Host, num_servers: int) -> int | None:
    """What each of ``num_servers`` on ``host`` has of its cache, in bytes; None: not known."""
    return None if host.cache_bytes is None else host.cache_bytes // num_servers


def _share(problem: Problem, server_name: str, sharers: Counter[str]) -> int:
    host = problem.cluster.host_of(server_name)
    share = share_cache(host, sharers[host.name])
    if share is None:
        raise Infeasible(
            f"host {host.name!r} of server {server_name!r} has no cache_bytes: probe it, or plan"
            " without --cache-fit"
        )
    return share
