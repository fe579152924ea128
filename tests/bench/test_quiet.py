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


def test_a_quiet_measurement_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, [0.04])
    values = iter([7.0, 8.0])
    found = quiet.measure_quietly(lambda: next(values), ())
    assert (found.value, found.tries) == (7.0, 1)
    assert found.others_cores == pytest.approx(0.04)


def test_a_disturbed_measurement_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, [1.0, 0.3, 0.01, 0.0])
    values = iter([7.0, 9.0, 8.0, 10.0])
    found = quiet.measure_quietly(lambda: next(values), ())
    assert (found.value, found.tries) == (8.0, 3)


def test_where_all_are_disturbed_the_least_disturbed_counts_not_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch(monkeypatch, [1.0, 0.3, 0.2, *[0.5] * 5])
    values = iter([9.0, 8.0, 1.0, *[7.0] * 5])
    found = quiet.measure_quietly(lambda: next(values), ())
    assert (found.value, found.tries) == (1.0, quiet.MAX_TRIES)
