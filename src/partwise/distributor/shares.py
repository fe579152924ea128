"""Whole granules of neurons for each member of a stage, from shares that need not be whole.

Numbers go in as they were written (33.3 is 333/10) and are compared exactly, so the same
question has the same answer on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import accumulate, pairwise

from partwise.distributor.plan import Member, NeuronShare
from partwise.errors import Infeasible
from partwise.model.description import Model, NeuronKind

Ranges = tuple[tuple[int, int], ...]
Choose = Callable[[int, NeuronKind], Sequence[Ranges]]
"""The ranges of each member, for the neurons of a kind in a layer (by index)."""

MAX_LISTED = 8
"""So many percentages are listed in a line."""
MAX_DIGITS = 18
"""More digits than this no percentage has."""


def exact(value: float | Fraction) -> Fraction:
    """A number as it is written in decimal, not as binary rounds it."""
    return value if isinstance(value, Fraction) else Fraction(str(value))


def to_whole(weights: Sequence[float | Fraction]) -> list[int]:
    """Whole numbers in the exact proportion of ``weights``."""
    whole = [weight for weight in weights if isinstance(weight, int)]
    if len(whole) == len(weights):
        return whole
    fractions = [exact(weight) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    return [fraction.numerator * (scale // fraction.denominator) for fraction in fractions]


def round_shares(
    count: int, weights: Sequence[float | Fraction], granule: int = 1
) -> tuple[int, ...]:
    """``count`` neurons in proportion to ``weights``, in whole granules by largest remainder.

    Each gets the whole granules of its exact share; those left go to the largest remainders,
    the earlier first where they are equal. The last granule may be smaller than the others;
    it belongs to the last that gets any.
    """
    num_granules = -(-count // granule)
    whole = to_whole(weights)
    total = sum(whole)
    pairs = [divmod(num_granules * weight, total) for weight in whole]
    granules = [share for share, _ in pairs]
    by_remainder = sorted(range(len(pairs)), key=lambda i: -pairs[i][1])
    for i in by_remainder[: num_granules - sum(granules)]:
        granules[i] += 1
    bounds = [min(bound * granule, count) for bound in accumulate(granules, initial=0)]
    return tuple(stop - start for start, stop in pairwise(bounds))


def lay_out(sizes: Sequence[int]) -> tuple[Ranges, ...]:
    """Consecutive ranges of these sizes; none where a size is 0."""
    bounds = accumulate(sizes, initial=0)
    return tuple(((a, b),) if a < b else () for a, b in pairwise(bounds))


def split_by_weight(weights: Sequence[float | Fraction], granules: Mapping[str, int]) -> Choose:
    """Every kind in every layer in proportion to ``weights``, in consecutive ranges.

    A weight too small for a granule of a kind gives none of it.
    """

    @cache
    def choose(kind: NeuronKind) -> Sequence[Ranges]:
        return lay_out(round_shares(kind.count, weights, granules.get(kind.name, 1)))

    return lambda _, kind: choose(kind)


def split_equally(num_members: int, granules: Mapping[str, int]) -> Choose:
    """Every kind in every layer in equal shares, in consecutive ranges.

    Raises:
        Infeasible: (when called) a layer has fewer granules of a kind than members.
    """
    split = split_by_weight([1] * num_members, granules)

    def choose(layer: int, kind: NeuronKind) -> Sequence[Ranges]:
        check_granules(kind, num_members, granules.get(kind.name, 1))
        return split(layer, kind)

    return choose


def note_rounding(
    model: Model, weights: Sequence[float | Fraction], granules: Mapping[str, int]
) -> list[str]:
    """A line for each kind whose shares cannot be exactly ``weights``."""
    total = sum(map(exact, weights), Fraction(0))
    kinds = {kind: None for layer in model.layers for kind in layer.neuron_kinds}
    notes = []
    for kind in kinds:
        granule = granules.get(kind.name, 1)
        sizes = round_shares(kind.count, weights, granule)
        asked = [exact(weight) / total for weight in weights]
        if any(size != share * kind.count for size, share in zip(sizes, asked, strict=True)):
            given = [Fraction(size, kind.count) for size in sizes]
            said, done = _list_apart(asked, given)
            notes.append(
                f"{kind.name}: asked {said} %, given {done} % ({kind.count} neurons in granules of"
                f" {granule}, by largest remainder)"
            )
    return notes


def _list_apart(asked: Sequence[Fraction], given: Sequence[Fraction]) -> tuple[str, str]:
    """Both in percent, short enough for a line, with as many digits as tell them apart."""
    first = next(i for i, pair in enumerate(zip(asked, given, strict=True)) if pair[0] != pair[1])
    start = 0 if first < MAX_LISTED else first
    for digits in range(4, MAX_DIGITS):
        said, done = (_list(shares, start, digits) for shares in (asked, given))
        if said != done:
            break
    return said, done


def _list(shares: Sequence[Fraction], start: int, digits: int) -> str:
    """A few percentages from ``start`` on."""
    words = [f"{float(100 * share):.{digits}g}" for share in shares]
    stop = min(start + MAX_LISTED, len(words))
    num_more = len(words) - stop + start
    return " / ".join(words[start:stop]) + (f" and {num_more} more" if num_more else "")


def check_granules(kind: NeuronKind, num_members: int, granule: int) -> None:
    """Refuse more members than there are granules to share out.

    Raises:
        Infeasible: there are, with both numbers.
    """
    num_granules = -(-kind.count // granule)
    if num_members > num_granules:
        each = "" if granule == 1 else f" ({kind.count} neurons in granules of {granule})"
        raise Infeasible(
            f"{num_members} servers are more than the {num_granules} granules of {kind.name} in a"
            f" layer{each}: give {num_granules} servers or fewer, or cut the model by layers"
        )


def share_out(
    model: Model,
    layers: tuple[int, int],
    parts: Sequence[str],
    choose: Choose,
    granules: Mapping[str, int],
) -> tuple[Member, ...]:
    """The members of a stage of ``layers`` (start, stop), one for each of ``parts``.

    A single part holds the layers whole. A kind that is shared alike in all layers that have
    it is named once for the stage, otherwise once for each run of layers that share it alike.
    """
    if len(parts) == 1:
        return (Member(part=parts[0]),)
    tables: dict[str, list[tuple[int, tuple[Ranges, ...]]]] = {}
    for i in range(*layers):
        for kind in model.layers[i].neuron_kinds:
            tables.setdefault(kind.name, []).append((i, tuple(choose(i, kind))))
    if not tables:
        start, stop = layers
        raise Infeasible(
            f"{model.describe_range(start, stop)} has no neurons to share among {len(parts)}"
            " servers: give it to one"
        )
    return tuple(
        Member(
            part=part,
            neurons=tuple(
                NeuronShare(
                    kind=kind, ranges=ranges[member], granule=granules.get(kind, 1), layers=span
                )
                for kind, rows in sorted(tables.items())
                for span, ranges in _runs(rows, layers[1])
            ),
        )
        for member, part in enumerate(parts)
    )


def _runs(
    rows: Sequence[tuple[int, tuple[Ranges, ...]]], stop: int
) -> list[tuple[tuple[int, int] | None, tuple[Ranges, ...]]]:
    """Runs of layers that share a kind alike; None where one run is all."""
    firsts = [row for i, row in enumerate(rows) if i == 0 or row[1] != rows[i - 1][1]]
    if len(firsts) == 1:
        return [(None, firsts[0][1])]
    ends = [start for start, _ in firsts[1:]] + [stop]
    return [((start, end), ranges) for (start, ranges), end in zip(firsts, ends, strict=True)]
