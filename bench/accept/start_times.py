"""Seconds until `partwise --help` and `partwise --version` have answered: medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import time

ROUNDS = 5


def measure(option: str) -> float:
    """The median time of ``partwise OPTION``, from its start to its end."""
    seconds = []
    for _ in range(ROUNDS):
        start_s = time.monotonic()
        subprocess.run(["partwise", option], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - start_s)
    return statistics.median(seconds)


if __name__ == "__main__":
    print(json.dumps({"help_s": measure("--help"), "version_s": measure("--version")}))
