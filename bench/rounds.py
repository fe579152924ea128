"""Things to be measured in turn: each once a round, in a changing order, so that what changes with
time does so for all of them. Ratios are taken within a round."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from processors import place
from quiet import measure_quietly


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One thing to be measured, and the processes that it keeps busy besides this one.

    ``is_single``: they have one thread that computes. In one round all such runs are on the same
    processor, and on each processor in turn: a processor of a virtual machine may be slower than
    another for minutes.
    """

    measure: Callable[[], float]
    pids: tuple[int, ...]
    is_single: bool = False


def take_rounds(runs: Mapping[str, Run], num_rounds: int) -> dict[str, list[float]]:
    """What each of ``runs`` measured, one figure a round, after one round to warm up; those that
    others disturb again."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    processors = sorted(os.sched_getaffinity(0))
    order, generator = list(runs), random.Random(0)
    for run in runs.values():
        run.measure()
    for number in range(num_rounds):
        for run in runs.values():
            if run.is_single:
                place(run.pids, {processors[number % len(processors)]})
        generator.shuffle(order)
        for name in order:
            found[name].append(measure_quietly(runs[name].measure, runs[name].pids).value)
        print(f"round {number + 1} of {num_rounds}", file=sys.stderr, flush=True)
    return found
