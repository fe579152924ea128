"""The process that measures: it imports the kernels once and forks a team for each column.

A process of its own, for a team is forked where no thread runs yet, and it can be ended.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from partwise.errors import ProbeError
from partwise.part.kernels import Kernels, load_kernels
from partwise.probe.overhead import Overhead, measure_call_overhead, measure_overhead
from partwise.probe.points import Machine, Point, Team, Who, list_multiplies, list_reads, list_teams
from partwise.probe.team import Measured, measure_team


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """All that was measured, by team and point; ``precisions`` as the runners name them.

    ``overhead`` is of the first runner, ``own_overheads`` are of the others, by precision.
    """

    precisions: tuple[str, ...]
    measured: Mapping[tuple[Who, Point], Measured]
    overhead: Overhead
    own_overheads: Mapping[str, Overhead] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """``done`` of ``total`` points are measured."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It cannot go on."""

    text: str


Message = Progressed | Measurements | Failed


def measure_everything(pipe: Connection, machine: Machine) -> None:
    """Send `Progressed` again and again, at last `Measurements` or `Failed`; return early where
    the owner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, who ends us
    with contextlib.suppress(BrokenPipeError):
        try:
            pipe.send(_measure(pipe, machine))
        except ProbeError as exc:
            pipe.send(Failed(text=str(exc)))


def _measure(pipe: Connection, machine: Machine) -> Measurements:
    kernels = load_kernels()
    for each in kernels:
        each.preload()
    work: list[tuple[Team, Kernels, list[Point]]] = []
    for team in list_teams(machine.cores):
        work.append((team, kernels[0], list_reads(team, machine)))
        work += [
            (team, each, list_multiplies(team, machine, _own_precisions(each, kernels)))
            for each in kernels
        ]
    total, measured = 1 + sum(len(points) for _, _, points in work), {}
    for team, each, points in work:
        for result in measure_team(each, team, points):
            measured[team.who, result.point] = result
            pipe.send(Progressed(done=len(measured), total=total))
    precisions = tuple(p for each in kernels for p in _own_precisions(each, kernels))
    # Last: the runner starts threads, after which nothing may be forked.
    overhead = measure_overhead(kernels[0])
    own_overheads = {
        precision: measure_call_overhead(each, precision)
        for each in kernels[1:]
        for precision in _own_precisions(each, kernels)
    }
    pipe.send(Progressed(done=total, total=total))
    return Measurements(
        precisions=precisions, measured=measured, overhead=overhead, own_overheads=own_overheads
    )


def _own_precisions(kernels: Kernels, runners: list[Kernels]) -> list[str]:
    """The precisions that no runner before this one computes."""
    before = runners[: runners.index(kernels)]
    return [p for p in kernels.precisions if all(p not in other.precisions for other in before)]
