"""The process that measures: followed, and ended whatever it does."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from partwise.errors import ProbeError
from partwise.probe import probing
from partwise.probe.measurements import Failed, Measurements, Progressed
from partwise.probe.overhead import Overhead
from partwise.probe.points import Machine
from partwise.probe.probing import _measure_apart
from partwise.probe.spread import Spread

MACHINE = Machine(cores=1, memory_bytes=1 << 30, cache_bytes=0)
NONE = Spread(median=0.0, low=0.0, high=0.0)
FOUND = Measurements(
    precisions=(), measured={}, overhead=Overhead(call_s=NONE, layer_s=NONE, row_s=NONE)
)

pytestmark = [pytest.mark.usefixtures("started"), pytest.mark.quiet]


def succeed(pipe, machine: Machine) -> None:
    assert machine == MACHINE
    for done in (1, 2):
        pipe.send(Progressed(done=done, total=2))
    pipe.send(FOUND)


def fail(pipe, machine: Machine) -> None:
    pipe.send(Failed(text="out of cores: buy some"))


def hang(pipe, machine: Machine) -> None:
    pipe.send(Progressed(done=1, total=2))
    time.sleep(60)  # nobody waits for it: the deadline of the step ends this process


def die(pipe, machine: Machine) -> None:
    pipe.send(Progressed(done=1, total=2))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children know this file's functions without importing it anew."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(probing.multiprocessing, "get_context", lambda _: fork)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("forked")
class TestAnotherProcess:
    def test_what_it_measures_comes_back_and_its_progress_is_followed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probing, "measure_everything", succeed)
        seen: list[tuple[str, int, int]] = []
        assert _measure_apart(MACHINE, lambda *step: seen.append(step)) == FOUND
        assert seen == [("measuring", 1, 2), ("measuring", 2, 2)]

    def test_its_failure_is_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "measure_everything", fail)
        with pytest.raises(ProbeError, match="out of cores: buy some"):
            _measure_apart(MACHINE, lambda *_: None)

    def test_it_is_ended_when_it_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "measure_everything", hang)
        monkeypatch.setattr(probing, "STEP_S", 0.3)
        start_s = time.monotonic()
        with pytest.raises(ProbeError, match="nothing was measured for 0.3 s: is the machine"):
            _measure_apart(MACHINE, lambda *_: None)
        assert time.monotonic() - start_s < 10

    def test_its_death_is_noticed_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "measure_everything", die)
        with pytest.raises(ProbeError, match="the process that measures ended"):
            _measure_apart(MACHINE, lambda *_: None)


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    start_s = time.monotonic()
    with pytest.raises(ProbeError, match="give --store a folder"):
        probing.probe_machine(tmp_path / "nowhere", lambda *_: None)
    assert time.monotonic() - start_s < 5
