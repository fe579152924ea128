"""What every benchmark shares: the machine's description, medians, tables, results.

A benchmark prints a table, then one JSON line; run with its default arguments it also writes
that to bench/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of repeated measurements, and the middle half around it."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of ``values``."""
    if len(values) < 2:
        return Spread(median=values[0], low=values[0], high=values[0], count=1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high, count=len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, round by round: both were measured in the same round."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def is_contradicted(measured: Spread, *, says_faster: bool) -> bool:
    """Whether a measured ratio is on the other side of 1 than was said, with both quartiles."""
    return measured.high < 1 if says_faster else measured.low > 1


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "partwise": version("partwise"),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "load_average_1_min": os.getloadavg()[0],
    }


def has_defaults(parser: argparse.ArgumentParser, args: argparse.Namespace) -> bool:
    """Whether ``args`` are what ``parser`` gives without any argument."""
    return args == parser.parse_args([])


def report(
    name: str, figures: dict[str, Any], rounds: dict[str, Any] | None = None, *, is_default: bool
) -> None:
    """Print the JSON line; of a run with default arguments write it too, with the machine and
    the single rounds, for only such runs can be compared."""
    print(json.dumps({"bench": name, **figures}))
    if not is_default:
        print(f"note: {name}.json is written only with default arguments", file=sys.stderr)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {"bench": name, **figures, "machine": describe_machine(), "rounds": rounds or {}}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
