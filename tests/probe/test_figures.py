"""Whether figures are those of a busy machine, and what is said about it."""

from __future__ import annotations

import pytest

from partwise.probe.figures import Figure, explain_load, find_typical_spread
from partwise.probe.machine import Others
from partwise.probe.spread import Spread, spread


def figures(*relative: float) -> list[Figure]:
    """Rates that scatter so much, and an overhead that scatters far more."""
    values = [Spread(median=2e9, low=2e9 - r * 1e9, high=2e9 + r * 1e9) for r in relative]
    rates = [Figure(name=f"one_core: {i}, bytes_per_s", value=v) for i, v in enumerate(values)]
    wild = Spread(median=1e-6, low=0.0, high=1e-4)
    return [*rates, Figure(name="runner: call_overhead_s", value=wild)]


def others(busy_cores: float) -> Others:
    return Others(busy_cores=busy_cores, load_average_1_min=3.21)


def test_quartiles_are_those_of_the_middle_half() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert spread([7.0]) == Spread(median=7.0, low=7.0, high=7.0)
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]).relative == pytest.approx(2 / 3)


def test_the_typical_spread_is_the_median_of_the_rates() -> None:
    assert find_typical_spread(figures(0.01, 0.02, 0.9)) == pytest.approx(0.02)


def test_a_quiet_machine_needs_no_word() -> None:
    assert explain_load(figures(0.01, 0.02, 0.9), others(0.19), cores=2) is None


def test_a_busy_machine_is_told_by_whom_it_shares_with_and_by_how_figures_scatter() -> None:
    text = explain_load(figures(0.01), others(0.5), cores=2)
    assert text is not None
    assert "0.5 of 2 cores were in use before it began (load average 3.2)" in text
    assert "scatter" not in text
    assert "stop other work and probe again" in text
    text = explain_load(figures(0.2, 0.3), others(0.0), cores=2)
    assert text is not None
    assert "repeated measurements scatter by 25%" in text
    assert "in use" not in text
    both = explain_load(figures(0.2, 0.3), others(2.0), cores=2)
    assert both is not None
    assert "2.0 of 2 cores" in both
    assert "scatter by 25%" in both
