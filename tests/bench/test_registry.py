"""The benchmark of the registry measures what it says, and leaves nothing running."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent.parent / "bench"


def run(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code, "--rounds", "1"]
    return subprocess.run(words, cwd=BENCH, capture_output=True, text=True, check=False, timeout=60)


def test_every_plan_reaches_every_subscriber(started) -> None:
    done = run(
        "import registry; registry.NUM_SERVERS = 4; registry.STAGES = (4, 2); registry.main()"
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    figures = json.loads(done.stdout.splitlines()[-1])
    for key in ("4_stages", "2_stages"):
        assert 0 < figures[f"routes_{key}_s"] < 1
        assert 0 < figures[f"prepare_{key}_p50_ms"] <= figures[f"prepare_{key}_p99_ms"]
        assert figures[f"switch_{key}_p99_ms"] > 0
    assert started.processes() == []


def test_a_subscriber_that_refuses_a_plan_ends_the_benchmark_and_all_processes(started) -> None:
    code = (
        "import registry, subscribers;"
        "registry.NUM_SERVERS = 4; registry.STAGES = (4,);"
        "subscribers._Part._prepare = lambda self, plan: (_ for _ in ()).throw("
        "subscribers.RemoteError('no'));"
        "registry.main()"
    )
    done = run(code)
    assert done.returncode == 1
    assert re.search(r"part\d does not prepare plan_version 2: no", done.stderr)
    assert started.wait_for_end(3) == []
