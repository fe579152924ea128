"""More or fewer machines of the same make: what would 64 of these do?"""

from __future__ import annotations

from dataclasses import replace

from partwise.cluster.description import Cluster
from partwise.errors import ClusterError


def resize(cluster: Cluster, num_hosts: int) -> Cluster:
    """``num_hosts`` hosts like those of ``cluster`` in their order, then those again and again,
    each with its servers.

    The first keep their names, copies get ``-copy1``, ``-copy2`` and so on behind theirs. Within
    a round of copies links are as they were; the default link joins one round to another.

    Raises:
        ClusterError: fewer than 1 host is asked for, a chosen host has no servers, or a copy's
            name is another's already.
    """
    if num_hosts < 1:
        raise ClusterError(f"num_hosts is {num_hosts}, it must be at least 1: give 1 or more")
    rounds = [divmod(i, len(cluster.hosts)) for i in range(num_hosts)]
    chosen = {(number, cluster.hosts[place].name) for number, place in rounds}
    numbers = sorted({number for number, _ in rounds})
    servers = [(n, s) for n in numbers for s in cluster.servers if (n, s.host) in chosen]
    # Links are by servers or by hosts: both stay what they joined, where both ends are chosen.
    kept = chosen | {(n, server.name) for n, server in servers}
    return replace(
        cluster,
        hosts=tuple(
            replace(cluster.hosts[place], name=_name(cluster.hosts[place].name, number))
            for number, place in rounds
        ),
        servers=tuple(
            replace(server, name=_name(server.name, n), host=_name(server.host, n))
            for n, server in servers
        ),
        links={
            (_name(a, n), _name(b, n)): link
            for n in numbers
            for (a, b), link in cluster.links.items()
            if (n, a) in kept and (n, b) in kept
        },
    )


def _name(name: str, number: int) -> str:
    return f"{name}-copy{number}" if number else name
