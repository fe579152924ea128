"""Processors are compared with the fastest of them; runs of one thread share one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import processors
import rounds
from quiet import Quiet


def test_a_processor_of_half_the_speed_is_half_a_processor_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = iter([{0: 2.0, 1: 1.0}, {0: 0.5, 1: 1.0}, {0: 1.0, 1: 1.0}])
    monkeypatch.setattr(processors, "probe", lambda _: next(found))
    assert [processors.count_missing() for _ in range(3)] == [0.5, 0.5, 0.0]


def test_a_probe_is_of_every_processor_and_leaves_this_thread_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    found = processors.probe(before)
    assert found.keys() == before
    assert all(seconds > 0 for seconds in found.values())
    assert os.sched_getaffinity(0) == before


def test_runs_of_one_thread_are_on_the_same_processor_and_on_each_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor_numbers = sorted(os.sched_getaffinity(0))
    monkeypatch.setattr(
        rounds,
        "measure_quietly",
        lambda measure, _: Quiet(value=measure(), others_cores=0.0, tries=1),
    )
    # Nobody waits 60 s: they are only placed, and ended below.
    sleepers = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(3)
    ]
    try:

        def run(pid: int, *, is_single: bool) -> rounds.Run:
            def measure() -> float:
                return sum(1 << number for number in os.sched_getaffinity(pid))

            return rounds.Run(measure=measure, pids=(pid,), is_single=is_single)

        one, other, free = (sleeper.pid for sleeper in sleepers)
        found = rounds.take_rounds(
            {
                "one": run(one, is_single=True),
                "other": run(other, is_single=True),
                "free": run(free, is_single=False),
            },
            4,
        )
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    numbers = [processor_numbers[i % len(processor_numbers)] for i in range(4)]
    assert found["one"] == found["other"] == [1 << number for number in numbers]
    assert found["free"] == [sum(1 << number for number in processor_numbers)] * 4
