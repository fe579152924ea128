"""The tables of docs/experiments/latency.md, and the figures of the JSON line."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from itertools import product
from typing import Any

from experiments.page import Table, round_figure
from experiments.two_servers.cases import Condition, Layout
from experiments.two_servers.outcome import (
    Outcome,
    Series,
    group,
    take_measured,
    take_predicted,
)
from partwise.cli.format import Cell


def tabulate(outcomes: Sequence[Outcome]) -> list[Table]:
    """Every table, in the order of the page."""
    found = group(outcomes)
    return [
        tabulate_delays(found),
        tabulate_bandwidths(found),
        tabulate_errors(outcomes),
        *(tabulate_series(series) for series in found),
    ]


def name_series(series: Series) -> str:
    """For people."""
    return f"{series.case}, {series.streams} stream{'s' * (series.streams > 1)}"


def name_table(series: Series) -> str:
    """As one word."""
    return re.sub(r"[^a-z0-9]+", "-", name_series(series).lower())


def tabulate_series(series: Series) -> Table:
    """Milliseconds a token of every layout under every condition."""
    one = next(o for o in series.outcomes if o.layout is Layout.ONE)
    two = (Layout.LAYERS, Layout.NEURONS)
    headers = ["link", "one way ms"]
    for layout in two:
        headers += [f"{layout}: ms a token", "predicted", "off by", "tokens/s"]
    return Table(
        name=name_table(series),
        title=f"{name_series(series)}: one server {_say_ms(one)} ms a token, predicted"
        f" {round_figure(1e3 * one.predicted_s)}; {round_figure(one.tokens_per_s)} tokens/s",
        headers=[*headers, "fastest", "predicted"],
        rows=[_list_row(series, condition, two) for condition in series.conditions],
    )


def _list_row(series: Series, condition: Condition, two: Sequence[Layout]) -> list[Cell]:
    row: list[Cell] = [condition.bandwidth, f"{condition.delay_ms:g}"]
    for layout in two:
        outcome = series.find(layout, condition)
        row += [
            _say_ms(outcome),
            round_figure(1e3 * outcome.predicted_s),
            f"{outcome.error:+.0%}",
            round_figure(outcome.tokens_per_s),
        ]
    chosen = series.choose(condition, take_predicted)
    wrong = " (wrong)" * series.is_wrong(condition)
    return [*row, series.choose(condition, take_measured), chosen + wrong]


def _say_ms(outcome: Outcome) -> str:
    found = outcome.measured
    low, median, high = (
        round_figure(1e3 * value) for value in (found.low, found.median, found.high)
    )
    return f"{median} ({low} to {high})"


RIVALS = (Layout.LAYERS, Layout.ONE)
TAKES = (take_measured, take_predicted)
THAN = ("than layers", "predicted", "than one server", "predicted")
"""Of `RIVALS` and `TAKES`."""


def tabulate_delays(found: Sequence[Series]) -> Table:
    """Up to which delay neurons are the faster choice."""
    rows: list[list[Cell]] = [
        [
            name_series(series),
            Condition(mbit_per_s=mbit_per_s).bandwidth,
            *(
                _say_delay(series.find_delay_ms(mbit_per_s, rival, take))
                for rival, take in product(RIVALS, TAKES)
            ),
        ]
        for series in found
        for mbit_per_s in series.bandwidths
    ]
    return Table(
        name="delays",
        title="One-way delay, in ms, up to which neurons are faster",
        headers=("model", "link", *THAN),
        rows=rows,
    )


def _say_delay(delay_ms: float | None) -> str:
    if delay_ms is None:
        return "always"
    return round_figure(delay_ms) if delay_ms else "never"


def tabulate_bandwidths(found: Sequence[Series]) -> Table:
    """From which bandwidth on neurons are the faster choice, if there is no delay."""
    rows: list[list[Cell]] = [
        [
            name_series(series),
            *(
                _say_bandwidth(series.find_mbit_per_s(rival, take))
                for rival, take in product(RIVALS, TAKES)
            ),
        ]
        for series in found
    ]
    return Table(
        name="bandwidths",
        title="Mbit/s from which on neurons are faster, without delay",
        headers=("model", *THAN),
        rows=rows,
    )


def _say_bandwidth(mbit_per_s: float | None) -> str:
    if mbit_per_s is None:
        return "always"
    return "never" if math.isinf(mbit_per_s) else round_figure(mbit_per_s)


def tabulate_errors(outcomes: Sequence[Outcome]) -> Table:
    """How far predicted times are off, and how often the choice is wrong."""
    rows: list[list[Cell]] = []
    for series in group(outcomes):
        for layout in Layout:
            errors = [o.error for o in series.outcomes if o.layout is layout]
            sizes = [abs(error) for error in errors]
            rows.append(
                [
                    name_series(series),
                    layout,
                    len(errors),
                    f"{statistics.median(sizes):.0%}",
                    f"{max(errors, key=abs):+.0%}",
                ]
            )
    return Table(
        name="errors",
        title="Predicted time a token against the measured one",
        headers=("model", "layout", "conditions", "off by, median", "at most"),
        rows=rows,
    )


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of the JSON line."""
    found = group(outcomes)
    errors = [abs(outcome.error) for outcome in outcomes]
    judged = [(series, condition) for series in found for condition in series.conditions]
    delays = {
        name_table(series): [series.find_delay_ms(None, Layout.LAYERS, take) for take in TAKES]
        for series in found
    }
    return {
        "prediction_error_median": statistics.median(errors),
        "prediction_error_max": max(errors),
        "num_conditions": len(judged),
        "num_wrong_choices": sum(series.is_wrong(condition) for series, condition in judged),
        "neurons_faster_up_to_ms_measured_and_predicted": delays,
    }
