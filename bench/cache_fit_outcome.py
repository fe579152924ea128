"""What `cache_fit.py` measures of one part, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.page import Table
from harness import Spread, ratio, spread
from partwise.cli.format import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Seconds of a pass of ``tokens`` through one part, by rounds, and as the cost model says."""

    precision: str
    tokens: int
    part_bytes: float
    num_parts: int
    resident_s: tuple[float, ...]
    chained_s: tuple[float, ...]
    predicted_resident_s: float
    predicted_chained_s: float
    bound_by: str

    @property
    def gain(self) -> Spread:
        """How many times as fast the part is when it is resident."""
        return ratio(self.chained_s, self.resident_s)

    @property
    def predicted_gain(self) -> float:
        return self.predicted_chained_s / self.predicted_resident_s

    @property
    def error(self) -> float:
        """Of the predicted gain."""
        return self.predicted_gain / self.gain.median - 1


def tabulate(outcomes: Sequence[Outcome]) -> Table:
    """A row for each part and kind of pass."""
    headers = (
        "precision", "tokens", "part MiB", "parts", "resident us", "predicted us",
        "in its turn us", "predicted us", "gain", "predicted", "off by", "bound by",
    )  # fmt: skip
    rows = [
        (
            outcome.precision,
            outcome.tokens,
            outcome.part_bytes / MIB,
            outcome.num_parts,
            1e6 * spread(outcome.resident_s).median,
            1e6 * outcome.predicted_resident_s,
            1e6 * spread(outcome.chained_s).median,
            1e6 * outcome.predicted_chained_s,
            str(outcome.gain),
            outcome.predicted_gain,
            f"{outcome.error:+.0%}",
            outcome.bound_by,
        )
        for outcome in outcomes
    ]
    return Table(name="gains", title="Resident against in its turn", headers=headers, rows=rows)
