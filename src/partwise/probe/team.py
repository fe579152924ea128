"""Measures points in forked processes, all at the same time, each wait with a deadline.

What others disturb meanwhile is measured again, as long as the patience of the team lasts.

It must be called in a process that has imported its kernels and started no threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from partwise.errors import ProbeError
from partwise.part.huge_pages import use_huge_pages
from partwise.part.kernels import Kernels, Multiplication
from partwise.probe.others import count_others_s
from partwise.probe.points import Multiply, Point, Read, Team

WINDOW_S = 0.02
NUM_WINDOWS = 3
LEAST_BATCH_S = 200e-6
"""Shorter passes are timed several at a time: looking at the clock costs as much as they."""
DISTURBED_SHARE, DISTURBED_S = 0.1, 0.03
"""Of a core, and at least, used by others meanwhile: clocks of 10 ms show less where nobody is."""
MAX_TAKES, MAX_RETAKES = 4, 16
"""Of a point, and of all the points of a team besides the first of each."""
PAUSE_S = 0.05
POINT_S = 10.0
"""The deadline of a point; a healthy one takes NUM_WINDOWS windows and its set-up."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A point as a team measured it: passes a second of each process on average, by window.

    A pass of a process reads ``num_bytes``, in ``num_calls`` calls of a kernel, and multiplies
    ``macs``.
    """

    point: Point
    passes_per_s: tuple[float, ...]
    num_bytes: int
    num_calls: int
    macs: int


def measure_team(kernels: Kernels, team: Team, points: Sequence[Point]) -> Iterator[Measured]:
    """What ``team`` measures of each of ``points``.

    Raises:
        ProbeError: a process died, or did not finish a point in POINT_S.
    """
    members = _Members(kernels, team)
    try:
        for point in points:
            yield members.measure(point)
    finally:
        members.end()


class _Members:
    """The processes of a team, from the side of their owner."""

    def __init__(self, kernels: Kernels, team: Team) -> None:
        context = multiprocessing.get_context("fork")
        gate = context.Barrier(team.num_processes)
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._pipes: list[Connection] = []
        self._retakes = MAX_RETAKES
        for cpus in _share_cpus(team.num_processes):
            ours, theirs = context.Pipe()
            member = _Member(pipe=theirs, gate=gate, kernels=kernels, team=team, cpus=cpus)
            process = context.Process(target=_measure_all, args=(member,), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        self._ours = [os.getpid(), *(process.pid or 0 for process in self._processes)]

    def measure(self, point: Point) -> Measured:
        """The first take that nobody disturbs, or the least disturbed one."""
        takes: list[tuple[float, int, Measured]] = []
        while True:
            began_s, others_s = time.monotonic(), count_others_s(self._ours)
            measured = self._take(point)
            others_s = count_others_s(self._ours) - others_s
            share = others_s / (time.monotonic() - began_s)
            takes.append((share, len(takes), measured))
            is_quiet = others_s < DISTURBED_S or share < DISTURBED_SHARE
            if is_quiet or len(takes) == MAX_TAKES or not self._retakes:
                break
            self._retakes -= 1
            time.sleep(PAUSE_S)
        return min(takes)[2]

    def _take(self, point: Point) -> Measured:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # of one that died: receiving says so
                pipe.send(point)
        return _average([_receive(pipe, point) for pipe in self._pipes])

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _share_cpus(num_processes: int) -> list[set[int]]:
    """The processors of each: several get one each, for the kernel may leave two of them on one
    for seconds; a single one gets all."""
    cpus = sorted(os.sched_getaffinity(0))
    if num_processes == 1:
        return [set(cpus)]
    return [{cpus[i % len(cpus)]} for i in range(num_processes)]


def _average(measured: Sequence[Measured]) -> Measured:
    """What the members measured, as one: they all do the same."""
    windows = zip(*(each.passes_per_s for each in measured), strict=True)
    first = measured[0]
    return Measured(
        point=first.point,
        passes_per_s=tuple(sum(window) / len(measured) for window in windows),
        num_bytes=first.num_bytes,
        num_calls=first.num_calls,
        macs=first.macs,
    )


def _receive(pipe: Connection, point: Point) -> Measured:
    try:
        if pipe.poll(POINT_S):
            measured: Measured = pipe.recv()
            return measured
    except EOFError as exc:
        raise ProbeError(
            f"a process that measured {point} ended: is there memory for it? Stop other work and"
            " probe again"
        ) from exc
    raise ProbeError(
        f"{point} took more than {POINT_S:g} s: the machine is too busy to be measured; stop other"
        " work and probe again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """What a process of the team needs: its ``pipe`` to us, and the ``gate`` of all."""

    pipe: Connection
    gate: Barrier
    kernels: Kernels
    team: Team
    cpus: set[int]


def _measure_all(member: _Member) -> None:
    """The life of a member: whatever point it is sent, in step with the others."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing of us stays
    os.sched_setaffinity(0, member.cpus)
    member.kernels.use_threads(member.team.num_threads)
    held = _Held(member.kernels, member.team.num_processes)
    while True:  # its owner kills it
        member.pipe.send(held.measure(member.pipe.recv(), member.gate))


class _Held:
    """The matrices of the last point: the next one often wants the same."""

    def __init__(self, kernels: Kernels, num_processes: int) -> None:
        self._kernels = kernels
        self._num_processes = num_processes
        self._key: tuple[str, tuple[int, int], int] | None = None
        self._matrices: Multiplication | None = None

    def measure(self, point: Point, gate: Barrier) -> Measured:
        """Measure ``point`` in step with everybody at the ``gate``."""
        own_bytes = point.num_bytes // self._num_processes
        if isinstance(point, Read):
            reading = self._kernels.read(own_bytes)
            use_huge_pages(_do_nothing)
            return Measured(
                point=point,
                passes_per_s=_measure(reading.run, gate),
                num_bytes=reading.num_bytes,
                num_calls=1,
                macs=0,
            )
        matrices = self._find(point, own_bytes)
        return Measured(
            point=point,
            passes_per_s=_measure(lambda: matrices.run(point.tokens), gate),
            num_bytes=matrices.num_bytes,
            num_calls=matrices.num_matrices,
            macs=matrices.macs_per_token * point.tokens,
        )

    def _find(self, point: Multiply, own_bytes: int) -> Multiplication:
        key = point.precision, point.shape, own_bytes
        if self._matrices is None or self._key != key:
            self._matrices = None  # the old ones go before the new ones come
            self._key, self._matrices = key, self._kernels.multiply(*key)
            use_huge_pages(_do_nothing)  # as servers do
        return self._matrices


def _do_nothing() -> None:
    """Nobody waits meanwhile."""


def _measure(run: Callable[[], None], gate: Barrier) -> tuple[float, ...]:
    """Passes a second in each window."""
    run()  # what is touched first is slower
    start_s = time.perf_counter()
    run()
    batch = max(1, int(LEAST_BATCH_S / max(time.perf_counter() - start_s, 1e-9)))
    rates = []
    for _ in range(NUM_WINDOWS):
        gate.wait(POINT_S)
        rates.append(_count(run, batch))
    return tuple(rates)


def _count(run: Callable[[], None], batch: int) -> float:
    num_passes, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < WINDOW_S:
        for _ in range(batch):
            run()
        num_passes += batch
    return num_passes / elapsed_s
