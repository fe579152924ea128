"""How members are held against their rivals; nothing is deployed here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import Spread, is_contradicted
from neurons import (
    LLAMA,
    Duel,
    Measured,
    Setup,
    Subject,
    Way,
    find_errors,
    is_met,
    list_duels,
    list_setups,
    plan,
    render,
    summarise,
)
from partwise.cluster.presets import preset
from random_llama import CONFIG

HOST = preset("local-2").hosts[0]
LARGE = Subject(
    name=LLAMA, path=Path("llama"), precision="int8", ways=(Way.MEMBERS, Way.ONE, Way.WIDE)
)
SMALL = Subject(name="SmolLM2-135M", path=Path("smollm2"), precision="fp32", ways=tuple(Way))
SPEEDS = {Way.MEMBERS: 32.0, Way.LAYERS: 19.0, Way.ONE: 20.0, Way.WIDE: 36.0}


def find_setups() -> list[Setup]:
    return list_setups([LARGE, replace(LARGE, precision="int4"), SMALL])


def measure_all(small_members: float) -> dict[Setup, Measured]:
    """Rounds of which the median is SPEEDS; int4 twice as fast but for one part."""
    found = {}
    for setup in find_setups():
        speed = SPEEDS[setup.way]
        if setup.subject.precision == "int4" and setup.way is not Way.ONE:
            speed *= 2
        is_member = setup.way is Way.MEMBERS
        if setup.subject is SMALL and is_member:
            speed = small_members
        found[setup] = Measured(
            tokens_per_s=[0.99 * speed, speed, 1.01 * speed],
            exchange_us=[70.0, 80.0, 90.0] if is_member else [],
        )
    return found


def predict_all(error: float) -> dict[Setup, float]:
    return {setup: (1 + error) * SPEEDS[setup.way] for setup in find_setups()}


@pytest.mark.parametrize(
    ("predicted", "low", "high", "is_wrong"),
    [(1.2, 0.8, 0.9, True), (1.2, 0.8, 1.1, False), (0.8, 1.1, 1.3, True), (0.8, 0.5, 1.1, False)],
)
def test_a_prediction_is_contradicted_only_beyond_the_spread(
    predicted: float, low: float, high: float, is_wrong: bool
) -> None:
    measured = Spread(median=(low + high) / 2, low=low, high=high, count=3)
    assert is_contradicted(measured, says_faster=predicted > 1) is is_wrong


def test_what_is_predicted_to_come_out_even_is_not_said_to_be_faster() -> None:
    measured = Spread(median=0.8, low=0.7, high=0.9, count=3)
    even = Duel(subject=SMALL, rival=Way.WIDE, predicted=1.001, measured=measured)
    assert not even.is_wrong
    assert replace(even, predicted=1.1).is_wrong


def test_figures_are_the_least_of_both_precisions() -> None:
    figures = summarise(predict_all(0.1), measure_all(small_members=30.0))
    assert figures["members_over_one_part"] == pytest.approx(1.6)
    assert figures["int4_members_over_one_part"] == pytest.approx(3.2)
    assert figures["members_over_two_threads"] == pytest.approx(32 / 36)
    assert figures["exchange_us"] == 80.0
    assert figures["prediction_error_max"] == pytest.approx(0.45)  # of int4, 1.1 / 2 - 1
    assert figures["smollm2_num_verdicts"] == 3
    assert figures["smollm2_wrong_verdicts"] == []


def test_a_wrong_verdict_is_one_on_the_other_side() -> None:
    predicted, measured = predict_all(0.0), measure_all(small_members=19.5)
    wrong = [str(duel) for duel in list_duels(predicted, measured) if duel.is_wrong]
    assert wrong == ["SmolLM2-135M, fp32, over 1 part"]  # 32 against 20 were predicted
    assert "SmolLM2-135M, fp32, over 1 part " in render(predicted, measured)
    assert summarise(predicted, measured)["smollm2_wrong_verdicts"] == wrong


def test_errors_are_of_the_median() -> None:
    errors = find_errors(predict_all(0.1), measure_all(small_members=32.0))
    assert errors[Setup(subject=LARGE, way=Way.ONE)] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("members_over_one_part", 1.5, True),
        ("members_over_one_part", 1.49, False),
        ("members_over_two_threads", 0.84, False),
        ("prediction_error_max", 0.16, False),
        ("smollm2_wrong_verdicts", ["one"], False),
    ],
)
def test_all_bounds_of_the_issue_are_judged(key: str, value: object, expected: bool) -> None:
    figures = {
        "members_over_one_part": 1.6,
        "members_over_two_threads": 0.9,
        "prediction_error_max": 0.1,
        "smollm2_wrong_verdicts": [],
        key: value,
    }
    assert is_met(figures) is expected


@pytest.mark.parametrize("way", Way)
def test_what_is_planned_is_what_the_way_says(smollm2: Path, way: Way) -> None:
    setup = Setup(subject=replace(SMALL, path=smollm2, precision="int8"), way=way)
    planned = plan(setup, HOST, num_tokens=32)
    members = [len(stage.members) for stage in planned.plan.stages]
    expected = {Way.MEMBERS: [2], Way.LAYERS: [1, 1], Way.ONE: [1], Way.WIDE: [1]}
    assert members == expected[way]
    assert planned.prediction.tokens_per_s > 0


def test_two_threads_are_predicted_faster_than_one(smollm2: Path) -> None:
    one, wide = (
        plan(Setup(subject=replace(SMALL, path=smollm2), way=way), HOST, num_tokens=32)
        for way in (Way.ONE, Way.WIDE)
    )
    assert wide.prediction.tokens_per_s > 1.3 * one.prediction.tokens_per_s


def test_the_random_llama_has_eight_groups_of_16_layers_of_width_2048() -> None:
    shape = ("num_key_value_heads", "num_hidden_layers", "hidden_size")
    assert [CONFIG[key] for key in shape] == [8, 16, 2048]
