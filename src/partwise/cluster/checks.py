"""What names and numbers of hosts, servers and links may be.

Names are printed in tables, pictures and terminals. Numbers are multiplied and divided with each
other: within these limits no figure made of them leaves the range of a float.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from partwise.errors import ClusterError

LEAST, MOST = 1e-12, 1e18
"""Of quantities above 0, in their base units: the fastest device computes 1e15 MACs/s."""
MOST_S = 1e6
"""Of times: eleven days."""
MAX_NAME = 200


def check_name(noun: str, name: str) -> None:
    """Refuse a name that cannot be shown as one word of a line.

    Raises:
        ClusterError: it is empty, too long, or holds what cannot be printed.
    """
    if not name or not name.isprintable() or name.isspace():
        raise ClusterError(
            f"the {noun} {shorten(name)!r} has a name that cannot be shown: give it letters,"
            " digits and the like"
        )
    if len(name) > MAX_NAME:
        raise ClusterError(
            f"the {noun} {shorten(name)!r} has a name of {len(name):,} characters, it may have"
            f" {MAX_NAME}: shorten it"
        )


def check_numbers(where: str, values: Mapping[str, float | None]) -> None:
    """Refuse quantities that are not above 0, or beyond any machine. None is fine.

    Raises:
        ClusterError: which of them.
    """
    for key, value in values.items():
        if value is None:
            continue
        if not (math.isfinite(value) and value > 0):
            raise ClusterError(f"{where} has {key} = {value:g}, it must be above 0")
        if not LEAST <= value <= MOST:
            raise ClusterError(
                f"{where} has {key} = {value:g}, it must be {LEAST:g} to {MOST:g}: is the unit"
                " right?"
            )


def check_times(where: str, values: Mapping[str, float]) -> None:
    """Refuse seconds that are negative, not finite or above MOST_S.

    Raises:
        ClusterError: which of them.
    """
    for key, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ClusterError(f"{where} has {key} = {value:g}, it must be 0 or more")
        if value > MOST_S:
            raise ClusterError(
                f"{where} has {key} = {value:g}, it must be at most {MOST_S:g}: is the unit right?"
            )


def refuse_duplicates(noun: str, names: Iterable[str]) -> None:
    """Refuse a name that is given twice.

    Raises:
        ClusterError: which.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ClusterError(f"the {noun} {name!r} is given twice: rename one")
        seen.add(name)


def list_names(names: Iterable[object]) -> str:
    """The first names, short enough for a line."""
    words = [str(name) for name in names]
    return ", ".join(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")


def shorten(text: str) -> str:
    """The beginning of ``text``, short enough for a line."""
    return text if len(text) <= 60 else text[:57] + "..."
