"""The process that measures, seen from within."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import pytest

from partwise.errors import ProbeError
from partwise.probe import measurements
from partwise.probe.measurements import Failed, Measurements, Progressed, measure_everything
from partwise.probe.points import Machine

MACHINE = Machine(cores=1, memory_bytes=1 << 30, cache_bytes=0)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> tuple[Connection, Connection]:
    monkeypatch.setattr(measurements.signal, "signal", lambda *_: None)
    return multiprocessing.Pipe(duplex=False)


def test_it_ends_without_a_word_where_nobody_listens_any_more(
    pipe: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = []

    def measure(theirs: Connection, machine: Machine) -> Measurements:
        reached.append(machine)
        theirs.send(Progressed(done=1, total=2))
        raise AssertionError("nobody took that")

    monkeypatch.setattr(measurements, "_measure", measure)
    ours, theirs = pipe
    ours.close()
    with theirs:
        measure_everything(theirs, MACHINE)
    assert reached == [MACHINE]


def test_a_failure_that_nobody_hears_is_no_other_failure(
    pipe: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(theirs: Connection, machine: Machine) -> Measurements:
        raise ProbeError("out of cores: buy some")

    monkeypatch.setattr(measurements, "_measure", fail)
    ours, theirs = pipe
    with theirs:
        measure_everything(theirs, MACHINE)
        assert ours.recv() == Failed(text="out of cores: buy some")
        ours.close()
        measure_everything(theirs, MACHINE)
