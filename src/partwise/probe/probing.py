"""Measures this machine, in a process that can be ended: nothing here waits without a deadline."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from partwise.cluster.description import Host
from partwise.errors import ProbeError
from partwise.probe.assemble import assemble_host
from partwise.probe.disk import measure_store
from partwise.probe.figures import Figure, list_figures
from partwise.probe.machine import Others, describe_machine, find_name, watch_others
from partwise.probe.measurements import (
    Failed,
    Measurements,
    Message,
    measure_everything,
)
from partwise.probe.points import Machine

START_S, STEP_S = 60.0, 15.0
"""How long importing the runners may take, and then each point."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """This machine as measured: the host, every figure with its spread, and who else used it."""

    host: Host
    figures: tuple[Figure, ...]
    others: Others
    took_s: float


def probe_machine(store: Path, on_progress: OnProgress, *, name: str | None = None) -> Probe:
    """Measure this machine and the disk of the folder ``store``; ``on_progress`` follows.

    Raises:
        ProbeError: it cannot be measured, or not in time.
    """
    start_s = time.monotonic()
    others, machine = watch_others(), describe_machine()
    disk = measure_store(store)
    found = _measure_apart(machine, on_progress)
    figures = (*list_figures(found), Figure(name="store: read, bytes_per_s", value=disk))
    return Probe(
        host=assemble_host(name or find_name(), machine, found, disk.median),
        figures=figures,
        others=others,
        took_s=time.monotonic() - start_s,
    )


def _measure_apart(machine: Machine, on_progress: OnProgress) -> Measurements:
    """What a process of its own measures."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=measure_everything, args=(theirs, machine))
    process.start()
    theirs.close()
    try:
        limit_s = START_S
        while True:
            message = _receive(ours, limit_s)
            if isinstance(message, Measurements):
                return message
            if isinstance(message, Failed):
                raise ProbeError(message.text)
            limit_s = STEP_S
            on_progress("measuring", message.done, message.total)
    finally:
        process.kill()
        process.join()
        ours.close()


def _receive(pipe: Connection, limit_s: float) -> Message:
    if not pipe.poll(limit_s):
        raise ProbeError(
            f"nothing was measured for {limit_s:g} s: is the machine out of memory, or very busy?"
            " Stop other work and probe again"
        )
    try:
        message: Message = pipe.recv()
    except EOFError as exc:
        raise ProbeError(
            "the process that measures ended: its last words are above; is there enough memory?"
        ) from exc
    return message
