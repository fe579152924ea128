"""What is said of a part whose output is no number."""

from __future__ import annotations

from collections.abc import Sequence

from partwise.errors import NotFinite
from partwise.remote.frame import Row


def not_finite(part: str, where: str, rows: Sequence[Row]) -> NotFinite:
    """The error for NaN or infinity in what ``part``, which holds the layers ``where``, computed
    for ``rows``."""
    sequences = ", ".join(f"{row.sequence} at position {row.position}" for row in rows)
    return NotFinite(
        f"{part} ({where}) computed NaN or infinity for sequence {sequences}:"
        " its weights are damaged, or the model overflows fp32",
        part=part,
    )
