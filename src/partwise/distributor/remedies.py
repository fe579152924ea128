"""What would let servers hold a plan that they do not hold: a lower precision, more servers.

Each remedy is tried with the strategy itself before it is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from partwise.distributor.build import say_bytes
from partwise.distributor.cache_fit import share_of_cache
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.workload import ELEMENT_BYTES
from partwise.errors import Infeasible, PlanError, Unheld

LOWER_PRECISIONS = ("fp16", "int8", "int4")
MAX_MORE = 256
"""More servers than this are not proposed."""
MAX_MORE_MEMBERS = 32
"""Nor more than this where all share each layer: every one more would wait in its exchange."""

Find = Callable[[Problem], Plan]
TOO_LITTLE, HELD, REFUSED = range(3)
Try = Callable[[Problem], int]
"""Whether the servers of a problem have `TOO_LITTLE` for its layers, whether these are `HELD`, or
whether no memory would help (`REFUSED`), as where they are more than there is to share."""


def plan_or_say(problem: Problem, find: Find, *, can_grow: bool = True) -> Plan:
    """What ``find`` plans; where its parts lack memory, the error has what would help.

    ``can_grow``: whether more servers are of use to it without being told what they own.

    Raises:
        Infeasible: as ``find`` does, with remedies.
    """

    def attempt(other: Problem) -> int:
        try:
            find(other)
        except Unheld:
            return TOO_LITTLE
        except PlanError:
            return REFUSED
        return HELD

    try:
        return find(problem)
    except Unheld as exc:
        remedies = [*find_precision(problem, attempt)]
        remedies += count_more(problem, attempt, MAX_MORE_MEMBERS) if can_grow else []
        raise Infeasible(", or ".join([str(exc), *remedies])) from exc


def find_precision(problem: Problem, attempt: Try) -> list[str]:
    """The highest lower precision at which the servers can hold the model, if they compute it."""
    hosts = [problem.cluster.host_of(name) for name in problem.servers]
    for precision in LOWER_PRECISIONS:
        is_lower = ELEMENT_BYTES[precision] < problem.workload.element_bytes
        if is_lower and all(precision in host.rates for host in hosts):
            workload = replace(problem.workload, precision=precision)
            if attempt(replace(problem, workload=workload)) == HELD:
                return [precision]
    return []


def count_more(problem: Problem, attempt: Try, most: int = MAX_MORE) -> list[str]:
    """The fewest more servers like the roomiest that suffice; none where many do not."""
    like = max(problem.servers, key=lambda name: find_offer(problem, name))
    low, high = 0, 1
    while (found := attempt(add_servers(problem, like, high))) == TOO_LITTLE:
        low, high = high, 2 * high
        if high > most:
            return []
    while high - low > 1:
        middle = (low + high) // 2
        outcome = attempt(add_servers(problem, like, middle))
        if outcome == TOO_LITTLE:
            low = middle
        else:
            high, found = middle, outcome
    # Groups form otherwise with one server less: now and then that suffices too.
    while found == HELD and high > 1 and attempt(add_servers(problem, like, high - 1)) == HELD:
        high -= 1
    if found != HELD:
        return []
    noun = "server" if high == 1 else "servers"
    return [f"{high} more {noun} of {say_bytes(find_offer(problem, like))}"]


def find_offer(problem: Problem, server_name: str) -> int:
    """The bytes of memory that a server has or, with ``cache_fit``, its share of a cache."""
    if problem.options.get("cache_fit"):
        return share_of_cache(problem, server_name)
    return problem.cluster.server(server_name).memory_bytes


def add_servers(problem: Problem, like: str, num_more: int) -> Problem:
    """The problem with more servers like one of its own, each on a host of its own."""
    cluster = problem.cluster
    server, host = cluster.server(like), cluster.host_of(like)
    if problem.options.get("cache_fit"):
        host = replace(host, cache_bytes=find_offer(problem, like))
    first = len(cluster.servers)
    names = [f"{server.name} again {first + i}" for i in range(num_more)]
    more = replace(
        cluster,
        hosts=(*cluster.hosts, *(replace(host, name=name) for name in names)),
        servers=(*cluster.servers, *(replace(server, name=n, host=n) for n in names)),
    )
    return replace(problem, cluster=more, servers=(*problem.servers, *names))


def grow_server(
    problem: Problem, name: str, num_bytes: int, *, memory_too: bool = False
) -> Problem:
    """The problem in which one of its servers has so much more memory or, with ``cache_fit``,
    cache (``memory_too``: both); the others keep what they have."""
    cluster = problem.cluster
    server, host = cluster.server(name), cluster.host_of(name)
    is_cached = bool(problem.options.get("cache_fit"))
    extra_bytes = 0 if is_cached and not memory_too else num_bytes
    host = replace(host, memory_bytes=host.memory_bytes + extra_bytes)
    grown = replace(server, memory_bytes=server.memory_bytes + extra_bytes)
    changed = [host]
    if is_cached:
        share = share_of_cache(problem, name)
        num_others = sum(cluster.server(n).host == host.name for n in problem.servers) - 1
        own = replace(host, name=f"{host.name} of {name}", cache_bytes=share + num_bytes)
        grown = replace(grown, host=own.name)
        changed = [replace(host, cache_bytes=max(1, share * num_others)), own]
    hosts = tuple(other for other in cluster.hosts if other.name != host.name)
    servers = tuple(grown if other.name == name else other for other in cluster.servers)
    more = replace(cluster, hosts=(*hosts, *changed), servers=servers)
    return replace(problem, cluster=more)
