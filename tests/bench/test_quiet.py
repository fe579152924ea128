"""Disturbed measurements are taken again, and the least disturbed one counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import quiet


def watch(monkeypatch: pytest.MonkeyPatch, cores: list[float]) -> None:
    """Others use so many cores during each measurement of a second."""
    clock = iter(range(100))
    total, readings = 0.0, []
    for used in cores:
        readings += [total, total + used]
        total += 5
    seconds: Iterator[float] = iter(readings)
    monkeypatch.setattr(quiet, "count_others_s", lambda _: next(seconds))
    monkeypatch.setattr(quiet.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(quiet.time, "sleep", lambda _: None)
    monkeypatch.setattr(quiet, "count_missing", lambda: 0.1)


def test_a_quiet_measurement_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, [0.04])
    values = iter([7.0, 8.0])
    found = quiet.measure_quietly(lambda: next(values), (), patience=quiet.Patience())
    assert (found.value, found.tries) == (7.0, 1)
    assert found.others_cores == pytest.approx(0.04)


def test_a_disturbed_measurement_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, [1.0, 0.3, 0.01, 0.0])
    values = iter([7.0, 9.0, 8.0, 10.0])
    found = quiet.measure_quietly(lambda: next(values), (), patience=quiet.Patience())
    assert (found.value, found.tries) == (8.0, 3)


def test_where_all_are_disturbed_the_least_disturbed_counts_not_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch(monkeypatch, [1.0, 0.3, 0.2, *[0.5] * 5])
    values = iter([9.0, 8.0, 1.0, *[7.0] * 5])
    found = quiet.measure_quietly(lambda: next(values), (), patience=quiet.Patience())
    assert (found.value, found.tries) == (1.0, quiet.MAX_TRIES)


def test_what_a_slowed_processor_measured_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch(monkeypatch, [0.0, 0.0])
    missing = iter([0.1, 0.5, 0.1, 0.1])
    monkeypatch.setattr(quiet, "count_missing", lambda: next(missing))
    values = iter([7.0, 8.0])
    found = quiet.measure_quietly(lambda: next(values), (), patience=quiet.Patience())
    assert (found.value, found.tries) == (8.0, 2)


def test_slowed_processors_are_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quiet.time, "sleep", lambda _: None)
    monkeypatch.setattr(quiet, "count_missing", lambda: 0.5)
    patience = quiet.Patience(left_s=10 * quiet.PAUSE_S)
    assert patience.wait() == 0.5
    assert patience.left_s == 0
    leaving = iter([0.5, 0.5, 0.1])
    monkeypatch.setattr(quiet, "count_missing", lambda: next(leaving))
    patience = quiet.Patience(left_s=10 * quiet.PAUSE_S)
    assert patience.wait() == 0.1
    assert patience.left_s == 8 * quiet.PAUSE_S


def test_with_patience_at_its_end_a_disturbed_measurement_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch(monkeypatch, [1.0, 1.0, 1.0])
    patience = quiet.Patience(left_s=2 * (1 + quiet.PAUSE_S))  # a measurement takes a second
    values = iter([9.0, 8.0, 7.0])
    found = quiet.measure_quietly(lambda: next(values), (), patience=patience)
    assert (found.value, found.tries) == (7.0, 3)
    assert found.others_cores == pytest.approx(1.0)
