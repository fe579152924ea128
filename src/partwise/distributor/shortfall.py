"""What is missing where layers do not fit their servers, in one line."""

from __future__ import annotations

from collections.abc import Callable

from partwise.distributor.build import say_bytes
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import (
    HELD,
    TOO_LITTLE,
    count_more,
    find_offer,
    find_precision,
    grow_server,
)
from partwise.distributor.segment_costs import SegmentCosts

PRECISE = 100
"""What more a server needs is found to this part of what is left over."""

IsHeld = Callable[[Problem], bool]
"""Whether the servers of a problem can hold its layers."""


def describe_shortfall(problem: Problem, left: int, is_held: IsHeld) -> str:
    """A line on the layers from ``left`` on, which are left over where servers are filled in
    turn, and what would hold them."""
    model, num_layers = problem.model, len(problem.model.layers)
    costs = SegmentCosts(model, problem.cluster, problem.workload, problem.servers)
    is_cached = problem.options.get("cache_fit")
    measure = costs.working_set_bytes if is_cached else costs.bytes
    offered = [find_offer(problem, name) for name in problem.servers]
    budget = "cache" if is_cached else "memory"

    def attempt(other: Problem) -> int:
        return HELD if is_held(other) else TOO_LITTLE

    needed, whole = measure(left, num_layers), measure(0, num_layers)
    remedies = [
        *_find_growth(problem, round(max(whole, costs.bytes(0, num_layers))), is_held),
        *find_precision(problem, attempt),
        *count_more(problem, attempt),
    ]
    servers = "1 server offers" if len(offered) == 1 else f"{len(offered)} servers offer"
    why = _explain(problem, max(offered), measure) if sum(offered) >= whole else ""
    return (
        f"{model.describe_range(left, num_layers)} of {model.name} ({say_bytes(needed)} of"
        f" {say_bytes(whole)}) {'is' if num_layers - left == 1 else 'are'} left over: {servers}"
        f" {say_bytes(sum(offered))} of {budget}{why}; needed is"
        f" {', or '.join(remedies) or f'more {budget} in each'}"
    )


def _find_growth(problem: Problem, whole: int, is_held: IsHeld) -> list[str]:
    """What more the last server needs so that layers are held; what is said suffices, and is
    hardly more than the least. Where more cache alone does not help, both budgets are grown."""
    last, is_cached = problem.servers[-1], bool(problem.options.get("cache_fit"))
    for memory_too in (False, True) if is_cached else (True,):

        def holds(num_bytes: int, both: bool = memory_too) -> bool:
            return is_held(grow_server(problem, last, num_bytes, memory_too=both))

        if holds(whole):
            what = " of cache and of memory" if memory_too else " of cache"
            more = say_bytes(_find_least(holds, whole))
            return [f"{more} more{what if is_cached else ''} on server {last!r}"]
    return []


def _find_least(holds: Callable[[int], bool], enough: int) -> int:
    """Hardly more than the least number of bytes that ``holds``; ``enough`` do."""
    low, high = 0, enough
    least = max(64, enough // (100 * PRECISE))
    while high - low > max(least, high // PRECISE):
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _explain(problem: Problem, most: int, measure: Callable[[int, int], float]) -> str:
    """Why servers that offer enough together do not hold the layers: the largest of them."""
    model = problem.model
    largest = max(range(len(model.layers)), key=lambda i: measure(i, i + 1))
    layer = model.layers[largest]
    if measure(largest, largest + 1) <= most:
        return ""
    words = (
        f", but {layer.name} takes {say_bytes(measure(largest, largest + 1))} and the roomiest"
        f" {say_bytes(most)}"
    )
    tied = any(p.alias_of for p in layer.parameters) or any(
        p.alias_of in {own.name for own in layer.parameters} for p in model.parameters
    )
    if tied:
        words += " (it is tied: in stages apart each member holds it whole)"
    return words
