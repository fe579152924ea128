"""How predictions are held against measurements; nothing is deployed here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import plan_prediction
from harness import Spread
from partwise.cluster.presets import preset
from plan_prediction import (
    Case,
    Configuration,
    Outcome,
    compare,
    list_configurations,
    predict_speed,
    summarize,
)
from random_llama import CONFIG, list_shards

HOST = preset("local-2").hosts[0]
CASE = Case(name="net", path=Path("net"), num_tokens=4)
WHOLE = Configuration(case=CASE, parts=1, threads=2, streams=4)


def judge(predicted_ratio: float, low: float, high: float) -> Outcome:
    return Outcome(
        configuration=WHOLE,
        predicted=11.0,
        rounds=(9.0, 10.0, 20.0),
        predicted_ratio=predicted_ratio,
        measured_ratio=Spread(median=(low + high) / 2, low=low, high=high, count=3),
    )


def test_an_error_is_the_predictions_distance_from_the_median() -> None:
    assert judge(1.0, 1.0, 1.0).error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("predicted", "low", "high", "is_wrong"),
    [
        (1.2, 0.8, 0.9, True),
        (1.2, 0.8, 1.1, False),  # the measurement itself does not know
        (1.2, 1.1, 1.3, False),
        (0.8, 1.1, 1.3, True),
        (0.8, 0.9, 1.3, False),
        (0.8, 0.5, 0.6, False),
    ],
)
def test_a_verdict_is_wrong_only_beyond_the_measurements_own_spread(
    predicted: float, low: float, high: float, is_wrong: bool
) -> None:
    assert judge(predicted, low, high).is_wrong is is_wrong
    figures = summarize([judge(predicted, low, high)])
    assert figures["num_wrong_verdicts"] == is_wrong
    assert figures["wrong_verdicts"] == ["net, 1 x 2 threads, 4 streams"] * is_wrong


def test_one_whole_machine_is_compared_with_nothing_and_all_others_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configurations = list_configurations([CASE])
    assert len(set(configurations)) == 12
    speeds = {each: [float(each.parts), 2.0 * each.parts] for each in configurations}
    monkeypatch.setattr(
        plan_prediction,
        "predict_speed",
        lambda host, each: type("Prediction", (), {"tokens_per_s": 10.0 * each.threads}),
    )
    outcomes = {o.configuration: o for o in compare(HOST, configurations, speeds)}
    for streams in (1, 4):
        whole = replace(WHOLE, streams=streams)
        assert outcomes[whole].predicted_ratio is outcomes[whole].measured_ratio is None
        three = outcomes[replace(whole, parts=3, threads=1)]
        assert three.predicted_ratio == 0.5
        assert three.measured_ratio is not None
        assert three.measured_ratio.median == 3.0


def test_a_prediction_uses_the_threads_and_streams_that_are_deployed(smollm2: Path) -> None:
    case = replace(CASE, path=smollm2)
    one = predict_speed(HOST, replace(WHOLE, case=case, threads=1, streams=1))
    both = predict_speed(HOST, replace(WHOLE, case=case, streams=1))
    assert both.tokens_per_s > 1.3 * one.tokens_per_s
    two = predict_speed(HOST, replace(WHOLE, case=case, parts=2, threads=1))
    assert (two.num_microbatches, two.rows) == (2, 2)


def test_the_random_llama_is_of_the_1b_class() -> None:
    shards = list_shards()
    num_weights = sum(int(np.prod(s)) for shapes in shards.values() for s in shapes.values())
    assert 1.0e9 < num_weights < 1.1e9
    assert len(shards) == CONFIG["num_hidden_layers"] + 1
    assert shards["layer-00.safetensors"]["model.layers.0.self_attn.k_proj.weight"] == (512, 2048)
