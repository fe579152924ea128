"""How experiment 1 is evaluated, and that its page shows what was measured. Nothing is deployed."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.latency_page import PAGE, RESULTS, read_outcomes
from experiments.page import find_names, update_page
from experiments.two_servers.cases import (
    BANDWIDTHS,
    DELAYS_MS,
    FREE,
    Case,
    Condition,
    Layout,
    Point,
    cross,
    list_points,
)
from experiments.two_servers.measure import average_gap
from experiments.two_servers.outcome import (
    Outcome,
    Series,
    find_crossing,
    group,
    take_measured,
    take_predicted,
)
from experiments.two_servers.pictures import draw
from experiments.two_servers.predicted import make_plan, predict_token_s
from experiments.two_servers.tables import summarise, tabulate
from partwise.cluster.presets import preset
from partwise.model import Model, open_model

HOST = preset("local-2").hosts[0]
SERVERS = ("10.0.0.1:7070", "10.0.0.2:7071")
NUM_EXCHANGES = 62
"""Of SmolLM2: two in each of 30 blocks, one for the embedding, one for the head."""


def make_outcome(
    layout: Layout, token_ms: float, condition: Condition = FREE, predicted_ms: float = 1.0
) -> Outcome:
    rounds = tuple(token_ms / 1e3 * share for share in (0.9, 1.0, 1.1))
    return Outcome(
        case="net, fp32",
        layout=layout,
        streams=4,
        condition=condition,
        token_s=rounds,
        predicted_s=predicted_ms / 1e3,
    )


def make_series() -> Series:
    """One server takes 30 ms; layers 25 and twice the delay; neurons 20, 16 times the delay, and
    160 ms at 10 Mbit/s. The model knows no bandwidth."""
    outcomes = [make_outcome(Layout.ONE, 30.0, predicted_ms=30.0)]
    for condition in cross((10.0, 100.0, None), (0.0, 1.0, 5.0)):
        bits_ms = 1600 / (condition.mbit_per_s or math.inf)
        layers, neurons = 25 + 2 * condition.delay_ms, 20 + 16 * condition.delay_ms
        outcomes += [
            make_outcome(Layout.LAYERS, layers, condition, layers),
            make_outcome(Layout.NEURONS, neurons + bits_ms, condition, neurons),
        ]
    return Series(case="net, fp32", streams=4, outcomes=tuple(outcomes))


def test_the_delay_at_which_the_choice_changes_is_where_the_lines_cross() -> None:
    series = make_series()
    assert series.find_delay_ms(None, Layout.LAYERS, take_measured) == pytest.approx(5 / 14)
    assert series.find_delay_ms(None, Layout.ONE, take_measured) == pytest.approx(10 / 16)
    assert series.find_delay_ms(10.0, Layout.ONE, take_measured) == 0
    assert series.find_delay_ms(10.0, Layout.ONE, take_predicted) == pytest.approx(10 / 16)


def test_the_bandwidth_at_which_the_choice_changes_is_where_bits_take_what_neurons_save() -> None:
    series = make_series()
    assert series.find_mbit_per_s(Layout.LAYERS, take_measured) == pytest.approx(1600 / 5)
    assert series.find_mbit_per_s(Layout.ONE, take_measured) == pytest.approx(1600 / 10)
    assert series.find_mbit_per_s(Layout.ONE, take_predicted) is None
    slow = [
        replace(o, token_s=(1.0,)) if o.layout is Layout.NEURONS else o for o in series.outcomes
    ]
    slower = replace(series, outcomes=tuple(slow))
    assert slower.find_mbit_per_s(Layout.ONE, take_measured) == math.inf


@given(
    start=st.floats(-100, 100),
    slopes=st.lists(st.floats(0.1, 10), min_size=1, max_size=5),
    steps=st.lists(st.floats(0.1, 10), min_size=5, max_size=5),
)
def test_a_crossing_is_where_the_line_through_both_neighbours_is_zero(
    start: float, slopes: list[float], steps: list[float]
) -> None:
    places = [(0.0, start)]
    for slope, step in zip(slopes, steps, strict=False):
        x, y = places[-1]
        places.append((x + step, y + slope * step))
    found = find_crossing(places)
    if start > 0:
        assert found == 0
    elif places[-1][1] <= 0:
        assert found is None
    else:
        assert found is not None
        before = [(x, y) for x, y in places if y <= 0][-1]
        after = next((x, y) for x, y in places if y > 0)
        assert before[0] <= found <= after[0]
        slope = (after[1] - before[1]) / (after[0] - before[0])
        assert before[1] + slope * (found - before[0]) == pytest.approx(0, abs=1e-6)


def test_a_choice_is_wrong_only_beyond_the_spread_of_both() -> None:
    def judge(neurons_ms: float) -> bool:
        outcomes = (
            make_outcome(Layout.ONE, 50.0, predicted_ms=50.0),
            make_outcome(Layout.LAYERS, 20.0, predicted_ms=20.0),
            make_outcome(Layout.NEURONS, neurons_ms, predicted_ms=15.0),
        )
        return Series(case="net", streams=1, outcomes=outcomes).is_wrong(FREE)

    assert [judge(ms) for ms in (10.0, 21.0, 22.5)] == [False, False, True]


def test_one_server_is_measured_once_and_two_under_every_condition() -> None:
    case = Case(
        name="net",
        path=Path("net"),
        precision="fp32",
        streams=(1, 8),
        conditions=cross(BANDWIDTHS, DELAYS_MS),
    )
    counts = [len(list_points(case, layout)) for layout in Layout]
    assert counts == [2, 40, 40]


def test_gaps_count_only_while_all_streams_decode() -> None:
    early = [0.0, 1.0, 2.0, 3.0, 4.0]
    late = [1.01, 2.02, 3.01, 4.01, 9.0]
    assert average_gap([early, late]) == pytest.approx(1.0, abs=0.01)
    assert average_gap([[0.0, 0.5, 1.5]]) == pytest.approx(0.75)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Model:
    return open_model(smollm2)


def predict(model: Model, smollm2: Path, layout: Layout, condition: Condition) -> float:
    case = Case(name="net", path=smollm2, precision="fp32", streams=(1,), conditions=(condition,))
    plan = make_plan(case, layout, model, HOST, SERVERS)
    point = Point(case=case, layout=layout, streams=1, condition=condition)
    return predict_token_s(point, plan, model, HOST, SERVERS)


@pytest.mark.parametrize(
    ("layout", "num_ways"), [(Layout.ONE, 0), (Layout.LAYERS, 2), (Layout.NEURONS, NUM_EXCHANGES)]
)
def test_a_token_is_predicted_to_wait_for_each_way(
    model: Model, smollm2: Path, layout: Layout, num_ways: int
) -> None:
    near, far = (
        predict(model, smollm2, layout, Condition(delay_ms=delay_ms)) for delay_ms in (0.0, 20.0)
    )
    assert far - near == pytest.approx(num_ways * 0.02, abs=1e-6)


def test_a_token_s_exchanges_are_predicted_to_take_their_bytes_over_the_bandwidth(
    model: Model, smollm2: Path
) -> None:
    slow, fast = (
        predict(model, smollm2, Layout.NEURONS, Condition(mbit_per_s=mbit_per_s))
        for mbit_per_s in (10.0, 1000.0)
    )
    hidden_bytes = (NUM_EXCHANGES - 1) * 576 * 4
    more_s = (hidden_bytes + 8) * (8 / 10e6 - 8 / 1000e6)
    assert slow - fast == pytest.approx(more_s, rel=0.01)


def test_plans_are_for_the_servers_as_they_are_reached(model: Model, smollm2: Path) -> None:
    case = Case(name="net", path=smollm2, precision="int8", streams=(1,), conditions=(FREE,))
    for layout, servers, num_stages in (
        (Layout.ONE, SERVERS[:1], 1),
        (Layout.LAYERS, SERVERS, 2),
        (Layout.NEURONS, SERVERS, 1),
    ):
        plan = make_plan(case, layout, model, HOST, SERVERS)
        assert tuple(part.server for part in plan.parts) == servers
        assert {(part.precision, part.runner) for part in plan.parts} == {("int8", "onnx")}
        assert len(plan.stages) == num_stages


def test_the_page_has_a_place_for_each_table_and_a_picture_for_each_series(
    tmp_path: Path,
) -> None:
    series = make_series()
    page = tmp_path / "page.md"
    tables = tabulate(series.outcomes)
    page.write_text("".join(f"<!-- table {t.name} -->\n<!-- end {t.name} -->\n" for t in tables))
    update_page(page, tables)
    shown = page.read_text()
    assert "| net, fp32, 4 streams | loopback | 0.357 | 0.357 | 0.625 | 0.625 |" in shown
    assert "| net, fp32, 4 streams | 320 | always | 160 | always |" in shown
    assert "| 10 Mbit/s | 1 | 27.0 (25.6 to 28.4) | 27.0 | +0% | 148 |" in shown
    draw(tmp_path, series.outcomes)
    assert (tmp_path / "latency-net-fp32-4-streams.svg").stat().st_size > 0
    figures = summarise(series.outcomes)
    assert figures["num_conditions"] == 9
    # Neurons are predicted best, and take 160 ms more over 10 Mbit/s and 16 over 100.
    assert figures["num_wrong_choices"] == 2


def test_the_page_names_the_tables_of_all_cases() -> None:
    names = find_names(PAGE.read_text())
    assert names == [
        "delays",
        "bandwidths",
        "errors",
        "smollm2-135m-fp32-1-stream",
        "smollm2-135m-fp32-8-streams",
        "random-llama-1b-int8-1-stream",
    ]
    pictures = [f"latency-{name}.svg" for name in names[3:]]
    assert all(f"({picture})" in PAGE.read_text() for picture in pictures)


@pytest.mark.skipif(not RESULTS.exists(), reason="bench/experiments/latency.py was not run yet")
def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    shutil.copy(PAGE, copy)
    outcomes = read_outcomes(RESULTS)
    update_page(copy, tabulate(outcomes))
    assert copy.read_text() == PAGE.read_text(), (
        "run bench/experiments/latency_page.py, and read whether the page's prose still holds"
    )
    names = find_names(PAGE.read_text())
    for series in group(outcomes):
        assert len(series.conditions) > 1
    assert all((PAGE.parent / f"latency-{name}.svg").is_file() for name in names[3:])
