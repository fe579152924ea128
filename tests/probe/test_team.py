"""Teams of processes: they measure at once, and none outlives its measurement or its deadline."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest

from partwise.errors import ProbeError
from partwise.probe import team as team_module
from partwise.probe.points import Multiply, Read, Team, Who
from partwise.probe.team import measure_team

# Python says so from 3.12 on where other tests have left threads; the probe forks without any.
pytestmark = [
    pytest.mark.quiet,
    pytest.mark.usefixtures("started"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
PASS_S = 0.004


class Sleeper:
    """A kernel that takes PASS_S, or does worse."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.num_matrices, self.macs_per_token = 3, 100

    def run(self, tokens: int = 1) -> None:
        if tokens == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        # Nobody waits 60 s: the deadline of the point ends this process.
        time.sleep(60 if tokens == 17 else PASS_S)


class FakeKernels:
    precisions = ("fp32",)
    threads = 0

    def use_threads(self, count: int) -> None:
        self.threads = count

    def read(self, working_set_bytes: int) -> Sleeper:
        return Sleeper(working_set_bytes + self.threads)

    def multiply(self, precision: str, shape: tuple[int, int], num_bytes: int) -> Sleeper:
        return Sleeper(num_bytes)


def multiply(tokens: int) -> Multiply:
    return Multiply(precision="fp32", shape=(4, 4), num_bytes=800, tokens=tokens)


def test_each_process_takes_its_share_at_the_same_time() -> None:
    team = Team(who=Who.ALL_CORES, num_processes=2, num_threads=3)
    read, product = measure_team(FakeKernels(), team, [Read(num_bytes=1000), multiply(5)])
    assert (read.num_bytes, read.num_calls, read.macs) == (500 + 3, 1, 0)
    assert (product.num_bytes, product.num_calls, product.macs) == (400, 3, 500)
    for measured in (read, product):
        assert len(measured.passes_per_s) == team_module.NUM_WINDOWS
        assert 0.3 / PASS_S < max(measured.passes_per_s) <= 1 / PASS_S


def disturb(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> list[int]:
    """Others use so much of a core during each take; the number of takes so far."""
    taken = [0]
    take = team_module._Members._take

    def count_others_s(ours: object) -> float:
        return clock[0]

    def disturbed_take(self: object, point: object) -> object:
        start_s = time.monotonic()
        measured = take(self, point)
        clock[0] += shares[min(taken[0], len(shares) - 1)] * (time.monotonic() - start_s)
        taken[0] += 1
        return replace(measured, macs=taken[0])

    clock = [0.0]
    monkeypatch.setattr(team_module, "count_others_s", count_others_s)
    monkeypatch.setattr(team_module._Members, "_take", disturbed_take)
    return taken


@pytest.mark.parametrize(
    ("shares", "num_takes", "kept"),
    [
        ([0.0], 1, 1),
        ([1.0, 1.0, 0.0], 3, 3),
        ([1.0, 0.9, 0.7, 0.8, 0.0], team_module.MAX_TAKES, 3),
    ],
)
def test_what_others_disturb_is_measured_again_and_the_least_disturbed_counts(
    shares: list[float], num_takes: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = disturb(monkeypatch, shares)
    team = Team(who=Who.ONE_CORE, num_processes=1, num_threads=1)
    [measured] = measure_team(FakeKernels(), team, [multiply(5)])
    assert (taken[0], measured.macs) == (num_takes, kept)


def test_a_team_on_a_busy_machine_loses_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team_module, "MAX_RETAKES", 4)
    taken = disturb(monkeypatch, [1.0])
    team = Team(who=Who.ONE_CORE, num_processes=1, num_threads=1)
    assert len(list(measure_team(FakeKernels(), team, [multiply(5)] * 4))) == 4
    assert taken[0] == 4 + 4


def test_a_process_that_dies_is_an_error_in_one_line() -> None:
    team = Team(who=Who.ALL_CORES, num_processes=2, num_threads=1)
    with pytest.raises(ProbeError, match="a process that measured .*tokens=13.* ended: is there"):
        list(measure_team(FakeKernels(), team, [multiply(1), multiply(13)]))


def test_a_process_that_hangs_is_ended_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team_module, "POINT_S", 0.4)
    team = Team(who=Who.ONE_CORE, num_processes=1, num_threads=1)
    start_s = time.monotonic()
    with pytest.raises(ProbeError, match=r"tokens=17.* took more than 0\.4 s: the machine is too"):
        list(measure_team(FakeKernels(), team, [multiply(17)]))
    assert time.monotonic() - start_s < 5
