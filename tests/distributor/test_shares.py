"""Shares of neurons: exact where they can be, by largest remainder where not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.distributor.shares import (
    check_granules,
    lay_out,
    note_rounding,
    round_shares,
    share_out,
    split_by_weight,
)
from partwise.errors import Infeasible
from partwise.model.description import Model, NeuronKind

WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=9)


@given(count=st.integers(0, 500), weights=WEIGHTS, granule=st.integers(1, 40))
def test_shares_are_whole_granules_within_one_of_the_exact_share(
    count: int, weights: list[int], granule: int
) -> None:
    sizes = round_shares(count, weights, granule)
    assert sum(sizes) == count
    bounds = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert all(bound % granule == 0 or bound == count for bound in bounds)
    num_granules = -(-count // granule)
    for size, weight in zip(sizes, weights, strict=True):
        ideal = Fraction(num_granules * weight, sum(weights))
        assert abs(-(-size // granule) - ideal) < 1
        if granule == 1 and ideal.denominator == 1:
            assert size == ideal


@pytest.mark.parametrize(
    ("count", "weights", "granule", "expected"),
    [
        (10, [70, 30], 1, (7, 3)),
        (9, [70, 30], 1, (6, 3)),
        # 33.3 % of 10 is 3.33 thrice: the one left goes to the largest remainder, the last.
        (10, [33.3, 33.3, 33.4], 1, (3, 3, 4)),
        (3, [1, 1], 1, (2, 1)),
        (192, [50, 50], 128, (128, 64)),
        (10, [0.1, 0.2], 1, (3, 7)),
        (30, [0.1, 0.2], 1, (10, 20)),
    ],
)
def test_the_largest_remainders_get_what_is_left(
    count: int, weights: list[float], granule: int, expected: tuple[int, ...]
) -> None:
    assert round_shares(count, weights, granule) == expected


def test_ranges_follow_each_other_and_an_empty_share_has_none() -> None:
    assert lay_out([2, 0, 3]) == (((0, 2),), (), ((2, 5),))


def test_more_members_than_granules_names_both_numbers() -> None:
    kind = NeuronKind(name="kv_group", count=4)
    check_granules(kind, 4, 1)
    with pytest.raises(Infeasible, match="5 servers are more than the 4 granules of kv_group"):
        check_granules(kind, 5, 1)
    with pytest.raises(Infeasible, match=r"2 granules .* \(4 neurons in granules of 3\)"):
        check_granules(kind, 3, 3)


def test_rounding_is_told_for_each_kind_that_does_not_divide(model: Model) -> None:
    assert note_rounding(model, [1, 1], {}) == []
    # 70 % of 30 vocabulary rows are 21: nothing to tell.
    assert note_rounding(model, [70, 30], {}) == [
        f"{kind}: asked 70 / 30 %, given {given} % ({count} neurons in granules of 1, by largest"
        " remainder)"
        for kind, given, count in (("kv_group", "75 / 25", 4), ("mlp_unit", "66.67 / 33.33", 12))
    ]


def test_layers_that_share_a_kind_alike_are_named_once(model: Model) -> None:
    members = share_out(model, (0, 7), ["p", "q"], split_by_weight([1, 1], {}), {})
    assert [(s.kind, s.layers) for s in members[0].neurons] == [
        ("kv_group", None),
        ("mlp_unit", None),
        ("vocabulary_row", None),
    ]

    def choose(layer: int, kind: NeuronKind) -> list[tuple[tuple[int, int], ...]]:
        half = kind.count // 2 + (layer > 2)
        return [((0, half),), ((half, kind.count),)]

    (share,) = [
        s
        for s in share_out(model, (1, 5), ["p", "q"], choose, {})[0].neurons
        if s.kind == "mlp_unit" and s.layers != (1, 3)
    ]
    assert (share.layers, share.ranges) == ((3, 5), ((0, 7),))


def test_layers_without_neurons_cannot_be_shared(model: Model) -> None:
    with pytest.raises(Infeasible, match="norm has no neurons to share among 2 servers"):
        share_out(model, (5, 6), ["p", "q"], split_by_weight([1, 1], {}), {})
