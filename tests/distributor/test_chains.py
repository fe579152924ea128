"""Chains of groups: each once where all are listed, and changes that keep servers apart."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, pairwise, permutations

import pytest

from partwise.distributor.chains import (
    Chain,
    count_chains,
    list_chains,
    list_changes,
    split_evenly,
)


def cut_permutations(num_servers: int) -> set[Chain]:
    """Every chain of unlike servers: every order of every choice, cut in every way."""
    chains = set()
    for size in range(1, num_servers + 1):
        for order in permutations(range(num_servers), size):
            for num_cuts in range(size):
                for cuts in combinations(range(1, size), num_cuts):
                    bounds = (0, *cuts, size)
                    chains.add(tuple(tuple(sorted(order[a:b])) for a, b in pairwise(bounds)))
    return chains


@pytest.mark.parametrize("kinds", [[0], [0, 1], [0, 0, 0], [0, 1, 0], [2, 0, 1, 0], [0, 1, 2, 3]])
def test_every_chain_is_listed_once_for_each_choice_of_kinds(kinds: list[int]) -> None:
    listed = list(list_chains(kinds))
    assert len(listed) == len(set(listed)) == count_chains(kinds, 10_000)
    expected = {
        tuple(tuple(sorted(kinds[i] for i in group)) for group in chain)
        for chain in cut_permutations(len(kinds))
    }
    found = [tuple(tuple(sorted(kinds[i] for i in g)) for g in chain) for chain in listed]
    assert len(found) == len(expected)
    assert set(found) == expected


def test_many_chains_are_counted_up_to_a_limit() -> None:
    assert count_chains(range(4), 300) == 149
    assert count_chains([0] * 8, 300) == 255
    assert count_chains(range(5), 300) > 300
    assert count_chains(range(64), 300) > 300


def test_even_groups_differ_by_one_server_at_most() -> None:
    for num_servers in range(1, 20):
        for num_groups in range(1, num_servers + 1):
            chain = split_evenly(range(num_servers), num_groups)
            assert [i for group in chain for i in group] == list(range(num_servers))
            sizes = [len(group) for group in chain]
            assert len(sizes) == num_groups
            assert max(sizes) - min(sizes) <= 1


def test_changes_keep_each_server_in_one_stage_and_reach_every_chain() -> None:
    rng = random.Random(0)
    for _ in range(100):
        kinds = [rng.randint(0, 2) for _ in range(6)]
        used = rng.sample(range(6), rng.randint(1, 6))
        chain = split_evenly(used, rng.randint(1, len(used)))
        for changed in list_changes(chain, kinds):
            assert all(changed)
            assert max(Counter(i for group in changed for i in group).values()) == 1
    reached = {((0,),)}
    left = list(reached)
    while left:
        for changed in list_changes(left.pop(), range(3)):
            chain = tuple(tuple(sorted(group)) for group in changed)
            if chain not in reached:
                reached.add(chain)
                left.append(chain)
    assert reached == cut_permutations(3)
