"""The exact least slowest run: consecutive layers over unequal servers.

It knows no model and no server, only what a run costs whom. A run's cost must never fall when
the run grows: then filling each server as far as a limit lets it is best for that limit, and
the least limit is found exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCosts:
    """What each of ``num_servers`` servers (by index) takes for a run of the layers.

    ``seconds(server, start, stop)`` is the cost of layers ``start:stop``, 0 where there are
    none. ``max_stop(server, start, limit_s)`` is the largest stop whose run fits the server
    and takes at most ``limit_s``; ``start`` where not even one layer does.
    """

    num_layers: int
    num_servers: int
    max_stop: Callable[[int, int, float], int]
    seconds: Callable[[int, int, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """Servers filled in an order, each as far as a limit allowed.

    The i-th of ``order`` holds layers ``bounds[i]:bounds[i + 1]`` (none: it stays unused).
    ``slowest_s`` is the cost of the slowest run; no limit above the one used and below
    ``next_limit_s`` would fill differently (infinite: more time does not help).
    """

    order: tuple[int, ...]
    bounds: tuple[int, ...]
    slowest_s: float
    next_limit_s: float

    @property
    def num_covered(self) -> int:
        return self.bounds[-1]


def split_min_max(
    num_layers: int,
    max_stop: Callable[[int, int, float], int],
    seconds: Callable[[int, int, int], float],
    num_servers: int,
) -> Filling | None:
    """The runs over servers in their order whose slowest is least; None where they do not fit.

    See `RunCosts` for the arguments.
    """
    costs = RunCosts(
        num_layers=num_layers, num_servers=num_servers, max_stop=max_stop, seconds=seconds
    )
    order = range(num_servers)
    return find_least(num_layers, lambda limit_s: fill_in_order(costs, order, limit_s))


def fill_in_order(costs: RunCosts, order: Sequence[int], limit_s: float) -> Filling:
    """Each server of ``order`` filled as far as ``limit_s`` allows."""
    start, slowest_s, next_limit_s = 0, 0.0, math.inf
    bounds = [0]
    for server in order:
        if start < costs.num_layers:
            stop = costs.max_stop(server, start, limit_s)
            if stop > start:
                slowest_s = max(slowest_s, costs.seconds(server, start, stop))
            next_limit_s = min(next_limit_s, find_next_limit(costs, server, start, stop, limit_s))
            start = stop
        bounds.append(start)
    return Filling(
        order=tuple(order), bounds=tuple(bounds), slowest_s=slowest_s, next_limit_s=next_limit_s
    )


def find_next_limit(costs: RunCosts, server: int, start: int, stop: int, limit_s: float) -> float:
    """The least limit at which a server could take one layer more; infinite: never."""
    if stop == costs.num_layers:
        return math.inf
    longer_s = costs.seconds(server, start, stop + 1)
    return longer_s if longer_s > limit_s else math.inf


def find_least(num_layers: int, fill: Callable[[float], Filling]) -> Filling | None:
    """The filling of all layers under the least limit; None where none covers them.

    Bisection whose two ends snap to costs that occur: a limit that suffices falls to the
    slowest run it led to, one that does not rises to the next at which anything changes. They
    meet in the optimum itself, not near it.
    """
    best = fill(math.inf)
    if best.num_covered < num_layers:
        return None
    least_s = 0.0
    while least_s < best.slowest_s:
        limit_s = _choose_limit(least_s, best.slowest_s, num_runs=len(best.order))
        filling = fill(limit_s)
        if filling.num_covered == num_layers:
            best = filling
        else:
            least_s = filling.next_limit_s
    return best


def _choose_limit(least_s: float, enough_s: float, num_runs: int) -> float:
    """A limit at or above ``least_s`` and below ``enough_s`` that tells most."""
    if least_s == 0.0:
        return enough_s / (num_runs + 1)
    if enough_s > 2 * least_s:
        return math.sqrt(least_s) * math.sqrt(enough_s)
    middle_s = least_s + (enough_s - least_s) / 2
    return middle_s if middle_s < enough_s else least_s
