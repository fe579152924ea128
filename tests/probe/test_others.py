"""Who uses the processors, from what the kernel counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from partwise.probe import others
from partwise.probe.others import count_others_s


def test_ticks_are_those_of_nobody_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "_PROC", tmp_path)
    monkeypatch.setattr(others.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(others.os, "sched_getaffinity", lambda _: {0, 2})
    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
    text = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 5000 700 4 5 6 50 60\ncpu1 5 5 5 5 5 5 5 5\n"
    (tmp_path / "stat").write_text(text + "cpu2 0 0 0 99 99 0 0 0 0 0\nintr 5\n")
    for pid, ticks in ((7, "30 3"), (8, "40 2")):
        (tmp_path / str(pid)).mkdir()
        text = f"{pid} (a) name) S 1 1 1 0 -1 0 1 2 3 4 {ticks} 0 0 20 0\n"
        (tmp_path / str(pid) / "stat").write_text(text)
    assert count_others_s([]) == pytest.approx(1.65)
    assert count_others_s([7]) == pytest.approx(1.32)
    assert count_others_s([7, 8, 9]) == pytest.approx(0.90)  # nobody is 9


@pytest.mark.quiet
def test_our_processes_are_not_others() -> None:
    code = "import time; e = time.monotonic() + 0.5\nwhile time.monotonic() < e: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.1)
        ours = [os.getpid(), process.pid]
        before = count_others_s(ours[:1]), count_others_s(ours)
        time.sleep(0.3)
        after = count_others_s(ours[:1]), count_others_s(ours)
    finally:
        process.kill()
        process.wait()
    assert after[0] - before[0] > after[1] - before[1] + 0.1


def test_the_kernel_tells_of_every_processor_that_we_may_use() -> None:
    for cpu in os.sched_getaffinity(0):
        assert others._count_busy([cpu]) > 0
