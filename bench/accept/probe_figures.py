"""Seconds that `partwise probe` takes, and whether the steps of the caches show in what it found.

One core must read what its own and what the last level of cache hold faster than what they do not,
and so must all cores: steps as ratios. The rates of each precision must be there at the rows that
the issue names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROWS = {1, 4, 16, 128}
OWN_MIB, LAST_LEVEL_MIB = 0.25, 4
"""What the caches of one core hold, and what only the last level does."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "host.toml"
        began_s = time.monotonic()
        words = ["-m", "partwise.cli.main", "probe", "--out", str(path)]
        subprocess.run([sys.executable, *words], check=True, timeout=120)
        seconds = time.monotonic() - began_s
        [host] = tomllib.loads(path.read_text())["hosts"]
    figures = {
        "probe_s": seconds,
        "one_core_cache_step": find_step(host["one_core_bandwidth"], LAST_LEVEL_MIB),
        "all_cores_cache_step": find_step(host["all_cores_bandwidth"], LAST_LEVEL_MIB),
        "own_cache_step": find_step(host["one_core_bandwidth"], OWN_MIB),
        "has_rows": all(set(rates["rows"]) >= ROWS for rates in host["rates"].values()),
        # Every layer is priced as a block: that may leave nothing for the call.
        "has_overheads": host["call_overhead_us"] >= 0 and host["layer_overhead_us"] > 0,
        "has_disk": host["store_gb_per_s"] > 0,
    }
    print(json.dumps(figures))


def find_step(curve: dict[str, list[float]], working_set_mib: float) -> float:
    """How many times as fast as the largest working set this one is read."""
    sizes, speeds = curve["working_set_mib"], curve["bandwidth_gb_per_s"]
    assert (sizes[0], sizes[-1]) == (0.125, 512), curve
    return speeds[sizes.index(working_set_mib)] / speeds[-1]


if __name__ == "__main__":
    main()
