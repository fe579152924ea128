"""Claims of several holders on one range of numbers: whether each is claimed once, and where it
may be cut. It knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

from partwise.errors import PlanError

Claim = tuple[int, int, str]
"""Start, stop and who holds it."""


def check_claims(
    claims: Sequence[Claim],
    count: int,
    what: str,
    where: str = "",
    words: tuple[str, str, str] = ("is", "owned", "it"),
) -> None:
    """Refuse claims that do not cover ``0:count`` once each.

    ``what`` is claimed and ``where``; ``words`` say that it is owned, and "it".

    Raises:
        PlanError: numbers claimed twice, with their holders, or by nobody.
    """
    verb, owned, it = words
    place = f" {where}" if where else ""
    covered, holder = 0, ""
    for start, stop, claimant in [*sorted(claims), (count, count, "")]:
        if start < covered:
            raise PlanError(
                f"{what} {start}:{min(stop, covered)}{place} {verb} claimed twice, by {holder!r}"
                f" and {claimant!r}: give {it} to one"
            )
        if start > covered:
            raise PlanError(
                f"{what} {covered}:{start}{place} {verb} {owned} by nobody: give {it} to one"
            )
        covered, holder = stop, claimant


def find_nearest(bound: int, granule: int, count: int) -> int:
    """The bound nearest to ``bound`` at which ``count`` numbers may be cut."""
    below = bound // granule * granule
    above = min(below + granule, count)
    return below if bound - below <= above - bound else above
