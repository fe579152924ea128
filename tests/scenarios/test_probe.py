"""A whole probe of this machine, as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from partwise.cluster.presets import preset
from partwise.cluster.toml_file import read_host
from partwise.probe.points import TOKENS

pytestmark = pytest.mark.quiet


@pytest.mark.usefixtures("started")
def test_a_probe_finds_the_steps_of_the_caches_and_what_the_kernels_do(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    words = ["probe", "--out", str(path), "--store", str(tmp_path), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "partwise.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    # 30 s on a quiet machine, of which this one may be none.
    assert document["took_s"] < 60
    host = read_host(path)
    assert preset("local-2", host=host).hosts == (host,)
    reads = host.one_core_bytes_per_s
    assert (reads.x[0], reads.x[-1]) == (1 << 17, 1 << 29)
    # What the last level of cache holds, beyond any core's own: 4 MiB.
    assert reads.at(4 << 20) > 1.5 * reads.y[-1]
    rates = host.rates["fp32"]
    assert rates.one_core_macs_per_s.x == TOKENS
    assert rates.one_core_macs_per_s.y[-1] > rates.one_core_macs_per_s.y[0]
    # More tokens never stream weights faster by much, and 128 are bound by arithmetic.
    assert (
        rates.streaming[0].one_core_bytes_per_s.y[0]
        > 2 * rates.streaming[0].one_core_bytes_per_s.y[-1]
    )
    assert host.layer_overhead_s > 10e-6
    assert host.store_bytes_per_s is not None
    assert not [p for p in tmp_path.iterdir() if p != path]
