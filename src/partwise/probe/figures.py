"""Every measurement with its spread, and whether they are to be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from partwise.probe.machine import Others
from partwise.probe.measurements import Measurements
from partwise.probe.points import Point, Read, empty_multiply
from partwise.probe.spread import Spread, spread
from partwise.probe.team import Measured

BUSY_SHARE = 0.1
"""Of the cores in use by others: more disturbs what all cores measure by as much."""
WIDE_SPREAD = 0.15
"""Quartiles this far apart, as a share of the median, are no quiet machine's: those lie within
5 %, and a cost model that is right within 15 % needs better input than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity with its spread, in the unit that its name ends with."""

    name: str
    value: Spread


def list_figures(found: Measurements) -> list[Figure]:
    """Everything that was measured, as it was taken."""
    rates = (_name_rate(who, measured) for (who, _), measured in found.measured.items())
    overhead = found.overhead
    return [
        *(figure for figure in rates if figure is not None),
        Figure(name="runner: call_overhead_s", value=overhead.call_s),
        Figure(name="runner: layer_overhead_s", value=overhead.layer_s),
        Figure(name="runner: row_overhead_s", value=overhead.row_s),
    ]


def find_typical_spread(figures: Sequence[Figure]) -> float:
    """The median of how far the quartiles of the rates lie apart, as a share of each median."""
    return statistics.median(f.value.relative for f in figures if f.name.endswith("_per_s"))


def explain_load(figures: Sequence[Figure], others: Others, cores: int) -> str | None:
    """Why the figures are those of a busy machine, and what to do; None: it was quiet."""
    reasons = []
    if others.busy_cores > BUSY_SHARE * cores:
        reasons.append(
            f"{others.busy_cores:.1f} of {cores} cores were in use before it began (load average"
            f" {others.load_average_1_min:.1f})"
        )
    typical = find_typical_spread(figures)
    if typical > WIDE_SPREAD:
        reasons.append(f"repeated measurements scatter by {typical:.0%} (quartiles, typically)")
    if not reasons:
        return None
    return (
        f"the machine was busy: {' and '.join(reasons)}; limits are {BUSY_SHARE:.0%} of the cores"
        f" and {WIDE_SPREAD:.0%}. These figures are those of a busy machine: stop other work and"
        " probe again"
    )


def _name_rate(who: str, measured: Measured) -> Figure | None:
    """The rate of a process at a point; None for a call that does nothing."""
    point = measured.point
    if isinstance(point, Read):
        scale, unit, is_empty = measured.num_bytes, "bytes_per_s", False
    else:
        scale, unit = measured.macs, "macs_per_s"
        is_empty = point == empty_multiply(point.precision)
    if is_empty:
        return None
    value = spread([rate * scale for rate in measured.passes_per_s])
    return Figure(name=f"{who}: {_describe(point)}, {unit}", value=value)


def _describe(point: Point) -> str:
    if isinstance(point, Read):
        return f"read {point.num_bytes} bytes"
    outputs, inputs = point.shape
    return (
        f"multiply {point.num_bytes} bytes of {outputs} x {inputs} in {point.precision} by"
        f" {point.tokens} tokens"
    )
