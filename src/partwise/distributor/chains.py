"""Chains of groups: which servers are the members of which stage, and changes of such chains.

Servers are numbers here; those of one kind can stand for each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise, product

Members = tuple[int, ...]
Chain = tuple[Members, ...]
"""The members of each stage, in order. Servers that are in none stay unused."""


def count_chains(kinds: Sequence[int], limit: int) -> int:
    """How many chains there are of servers of these kinds, not empty; above ``limit`` it only
    says that they are more."""
    counts = tuple(Counter(kinds).values())
    if math.prod(count + 1 for count in counts) > limit:
        return limit + 1

    @cache
    def count(left: tuple[int, ...]) -> int:
        rests = list(product(*(range(n + 1) for n in left)))
        return sum(1 + count(rest) for rest in rests if rest != left)

    return count(counts)


def list_chains(kinds: Sequence[int]) -> Iterator[Chain]:
    """Every chain, servers of one kind lowest number first."""
    alike = [[i for i, k in enumerate(kinds) if k == kind] for kind in sorted(set(kinds))]

    def extend(chain: Chain, used: tuple[int, ...]) -> Iterator[Chain]:
        free = [range(len(servers) - n + 1) for servers, n in zip(alike, used, strict=True)]
        for taken in product(*free):
            if any(taken):
                members = tuple(
                    server
                    for servers, first, num in zip(alike, used, taken, strict=True)
                    for server in servers[first : first + num]
                )
                longer = (*chain, members)
                yield longer
                yield from extend(longer, tuple(a + b for a, b in zip(used, taken, strict=True)))

    return extend((), (0,) * len(alike))


def split_evenly(servers: Sequence[int], num_groups: int) -> Chain:
    """Consecutive groups whose sizes differ by one at most, the larger first."""
    size, larger = divmod(len(servers), num_groups)
    bounds = [i * size + min(i, larger) for i in range(num_groups + 1)]
    return tuple(tuple(servers[a:b]) for a, b in pairwise(bounds))


def list_changes(chain: Chain, kinds: Sequence[int]) -> Iterator[Chain]:
    """Chains one change away: two stages joined or one cut in two, a server dropped, added,
    moved to the next stage or exchanged for one of another kind, two stages exchanged."""
    unused = [i for i in range(len(kinds)) if not any(i in members for members in chain)]
    firsts = list({kinds[i]: i for i in reversed(unused)}.values())
    yield from _regroup(chain)
    yield from _drop(chain, kinds)
    for i in range(len(chain) + 1):
        for server in firsts:
            yield (*chain[:i], (server,), *chain[i:])
            if i < len(chain):
                yield (*chain[:i], (*chain[i], server), *chain[i + 1 :])
    yield from _move(chain, kinds)
    yield from _exchange(chain, kinds, firsts)


def _regroup(chain: Chain) -> Iterator[Chain]:
    for i in range(len(chain) - 1):
        yield (*chain[:i], chain[i] + chain[i + 1], *chain[i + 2 :])
    for i, members in enumerate(chain):
        if len(members) > 1:
            for at in {1, len(members) // 2, len(members) - 1}:
                yield (*chain[:i], members[:at], members[at:], *chain[i + 1 :])
    for i in range(len(chain) - 1):
        yield (*chain[:i], chain[i + 1], chain[i], *chain[i + 2 :])


def _drop(chain: Chain, kinds: Sequence[int]) -> Iterator[Chain]:
    for i, members in enumerate(chain):
        for server in {kinds[s]: s for s in members}.values():
            rest = tuple(s for s in members if s != server)
            left = (*chain[:i], *((rest,) if rest else ()), *chain[i + 1 :])
            if left:
                yield left


def _move(chain: Chain, kinds: Sequence[int]) -> Iterator[Chain]:
    for i, members in enumerate(chain):
        for j in (i - 1, i + 1):
            if len(members) > 1 and 0 <= j < len(chain):
                for server in {kinds[s]: s for s in members}.values():
                    groups = list(chain)
                    groups[i] = tuple(s for s in members if s != server)
                    groups[j] = (*chain[j], server)
                    yield tuple(groups)


def _exchange(chain: Chain, kinds: Sequence[int], unused: Sequence[int]) -> Iterator[Chain]:
    """Near stages first, then servers that are not used."""
    for distance in range(1, len(chain)):
        for i in range(len(chain) - distance):
            for a, b in product(chain[i], chain[i + distance]):
                if kinds[a] != kinds[b]:
                    yield _replace(chain, {a: b, b: a})
    for members in chain:
        for a, b in product(members, unused):
            if kinds[a] != kinds[b]:
                yield _replace(chain, {a: b})


def _replace(chain: Chain, other: dict[int, int]) -> Chain:
    return tuple(tuple(other.get(s, s) for s in members) for members in chain)
