"""The order of unequal servers against every order there is."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from partwise.distributor import server_order
from partwise.distributor.min_max import Filling, fill_in_order
from partwise.distributor.server_order import climb, find_best_order, is_exact
from support.planning import Instance, least_by_table, random_instance


def check_order(instance: Instance, filling: Filling) -> None:
    """It names each server once, and its slowest run is what its order allows at best."""
    assert sorted(filling.order) == list(range(len(instance.speeds)))
    assert least_by_table(instance, filling.order) == filling.slowest_s
    assert filling.num_covered == len(instance.works)


def test_the_order_chosen_is_the_best_of_all() -> None:
    rng = random.Random(0)
    num_better = num_none = 0
    for _ in range(2000):
        num_servers = rng.randint(1, 4)
        instance = random_instance(rng, rng.randint(1, 10), num_servers)
        found = [least_by_table(instance, order) for order in permutations(range(num_servers))]
        expected = min((value for value in found if value is not None), default=None)
        filling = find_best_order(instance.costs, instance.kinds)
        if expected is None:
            assert filling is None
            num_none += 1
            continue
        assert filling is not None
        check_order(instance, filling)
        assert filling.slowest_s == expected
        given = least_by_table(instance, range(num_servers))
        num_better += given is None or expected < given
    assert num_better > 300
    assert num_none > 100


def test_eight_unequal_servers_and_many_alike_are_searched_exactly() -> None:
    assert is_exact(range(8))
    assert is_exact([0] * 64 + [1] * 60)
    assert not is_exact(range(13))


def test_the_inexact_search_is_sound_and_near_the_best_order() -> None:
    rng = random.Random(1)
    ratios = []
    for _ in range(25):
        instance = random_instance(rng, 24, 6)
        best, near = (
            find_best_order(instance.costs, instance.kinds),
            climb(instance.costs, instance.kinds),
        )
        if best is None or near is None:
            continue
        check_order(instance, near)
        ratios.append(near.slowest_s / best.slowest_s)
        given = least_by_table(instance, range(6))
        assert given is None or near.slowest_s <= given
    assert len(ratios) > 10
    assert min(ratios) >= 1
    assert sum(ratios) / len(ratios) < 1.05


def test_exchanges_improve_on_the_sorted_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    instances = [random_instance(rng, 30, 7) for _ in range(20)]
    with_exchanges = [climb(i.costs, i.kinds) for i in instances]
    monkeypatch.setattr(server_order, "MAX_TRIED_RUNS", -100)
    without = [climb(i.costs, i.kinds) for i in instances]
    pairs = [(a, b) for a, b in zip(with_exchanges, without, strict=True) if a and b]
    assert all(a.slowest_s <= b.slowest_s for a, b in pairs)
    assert any(a.slowest_s < b.slowest_s for a, b in pairs)


def test_servers_that_help_nothing_come_last_and_stay_unused() -> None:
    instance = Instance(
        works=(1.0, 1.0), speeds=(1.0, 8.0), overheads_s=(5.0, 0.0), memories=(9, 9)
    )
    filling = find_best_order(instance.costs, instance.kinds)
    assert filling is not None
    assert (filling.order, filling.bounds) == ((1, 0), (0, 2, 2))
    assert fill_in_order(instance.costs, filling.order, 1.0).bounds == (0, 2, 2)
