"""Lists of neuron identifiers, as people and programs write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from partwise.distributor.claims import check_claims, find_nearest
from partwise.distributor.shares import Ranges
from partwise.errors import PlanError
from partwise.model.description import NeuronKind


def read_ranges(ids: Any, where: str) -> Ranges:
    """Ascending ranges of ``"0:3,7"`` or of a list of identifiers and (start, stop) pairs.

    Adjacent identifiers are joined. ``where`` says in the error what they are.

    Raises:
        PlanError: something else, a range that is empty, or an identifier twice.
    """
    items = [word for word in ids.split(",") if word.strip()] if isinstance(ids, str) else ids
    try:
        spans = sorted(_read_span(item) for item in items)
    except (TypeError, ValueError) as exc:
        raise PlanError(
            f"{where}: {ids!r} are no identifiers; give '0:3,7' or a list of numbers and"
            " (start, stop) pairs"
        ) from exc
    joined: list[tuple[int, int]] = []
    for start, stop in spans:
        if start >= stop:
            raise PlanError(f"{where}: the range {start}:{stop} is empty; remove it")
        if joined and start < joined[-1][1]:
            raise PlanError(f"{where}: {start} is listed twice; list it once")
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def to_ranges(ids: Iterable[int]) -> Ranges:
    """Ascending ranges of identifiers that ascend."""
    joined: list[tuple[int, int]] = []
    for i in ids:
        if joined and joined[-1][1] == i:
            joined[-1] = (joined[-1][0], i + 1)
        else:
            joined.append((i, i + 1))
    return tuple(joined)


def check_owned(owned: Mapping[str, Ranges], kind: NeuronKind, layer: str) -> None:
    """Refuse ranges by server that do not own each neuron of ``kind`` once.

    Raises:
        PlanError: neurons out of range, claimed twice or owned by nobody, with their owners.
    """
    claims = [(a, b, server) for server, ranges in owned.items() for a, b in ranges]
    for start, stop, server in sorted(claims):
        if start < 0 or stop > kind.count:
            raise PlanError(
                f"{kind.name} {start}:{stop} of {layer} for server {server!r} is out of range:"
                f" there are 0:{kind.count}"
            )
    check_claims(claims, kind.count, kind.name, f"of {layer}")


def check_granule(owned: Mapping[str, Ranges], count: int, granule: int, where: str) -> None:
    """Refuse ranges by server that cut ``count`` neurons inside a granule.

    Raises:
        PlanError: a bound is off the granule, with the nearest that fits.
    """
    for server, ranges in owned.items():
        for bound in (bound for pair in ranges for bound in pair):
            if bound % granule and bound != count:
                raise PlanError(
                    f"server {server!r} owns {where} up to or from {bound}, where {granule} must"
                    f" stay together: the nearest that fits is"
                    f" {find_nearest(bound, granule, count)}"
                )


def _read_span(item: Any) -> tuple[int, int]:
    if isinstance(item, str):
        bounds = [int(word) for word in item.split(":")]
        item = bounds[0] if len(bounds) == 1 else bounds
    if isinstance(item, int):
        return item, item + 1
    start, stop = item
    if not isinstance(start, int) or not isinstance(stop, int):
        raise TypeError(item)
    return start, stop
