"""A runner's own cost, on a clock of its own: a runner whose layers take what is written here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from partwise.part.runner import RunnerOptions
from partwise.probe import overhead
from partwise.probe.overhead import measure_call_overhead, measure_overhead
from partwise.remote.frame import Row

pytestmark = pytest.mark.quiet

CALL_S, LAYER_S, ROW_S, POLLUTION_S = 5e-3, 1e-3, 2e-4, 0.5


class FakeClock:
    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class FakeRunner:
    """Every layer takes LAYER_S and ROW_S a row, and the first one CALL_S more."""

    weight_bytes = 0

    def __init__(self, clock: FakeClock, num_layers: int) -> None:
        self.clock, self.num_layers = clock, num_layers

    def run(
        self, rows: Sequence[Row], inputs: Sequence[np.ndarray], between: Callable[[], None]
    ) -> tuple[np.ndarray, ...]:
        self.clock.sleep(CALL_S)
        for i in range(self.num_layers):
            if i:
                between()
            self.clock.sleep(LAYER_S + ROW_S * len(rows))
        return ()

    def release(self, sequences: Sequence[int]) -> None:
        pass


class WholeRunner(FakeRunner):
    """The same in one call, which cannot be left."""

    def run(
        self, rows: Sequence[Row], inputs: Sequence[np.ndarray], between: Callable[[], None]
    ) -> tuple[np.ndarray, ...]:
        between()
        return super().run(rows, inputs, lambda: None)


class FakeKernels:
    precisions = ("fp32",)
    runner: type[FakeRunner] = FakeRunner

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def use_threads(self, count: int) -> None:
        assert count == 1

    def read(self, working_set_bytes: int) -> FakeKernels:
        return self

    def run(self) -> None:
        self.clock.sleep(POLLUTION_S)

    def make_runner(self, options: RunnerOptions) -> FakeRunner:
        return self.runner(self.clock, len(options.model.layers))


class WholeKernels(FakeKernels):
    precisions = ("int8",)
    runner = WholeRunner


def test_calls_layers_and_rows_are_told_apart_and_pollution_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(overhead, "time", clock)
    found = measure_overhead(FakeKernels(clock))
    assert found.layer_s.median == pytest.approx(LAYER_S)
    assert found.row_s.median == pytest.approx(ROW_S)
    assert found.call_s.median == pytest.approx(CALL_S)


def test_so_they_are_where_all_layers_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(overhead, "time", clock)
    found = measure_call_overhead(WholeKernels(clock), "int8")
    assert found.layer_s.median == pytest.approx(LAYER_S)
    assert found.row_s.median == pytest.approx(ROW_S)
    assert found.call_s.median == pytest.approx(CALL_S)


def test_the_torch_runner_has_an_overhead_of_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from partwise.part.torch.kernels import KERNELS

    monkeypatch.setattr(overhead, "PAUSE_S", 0.0)
    start_s = time.monotonic()
    found = measure_overhead(KERNELS)
    assert 20e-6 < found.layer_s.median < 20e-3
    assert 0 <= found.row_s.median < 10e-3
    assert time.monotonic() - start_s < 20
