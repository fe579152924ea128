"""Memory of each server after loading against its share of the weights, on SmolLM2.

What loading adds to an empty server may be at most 1.1 times the bytes of its part, counted
from the plan and the file headers.

    python bench/memory.py [--parts N,N,...]
"""

from __future__ import annotations

import argparse
import sys

import partwise
from harness import SMOLLM2, has_defaults, report
from partwise.cli.format import MIB, format_table
from partwise.distributor import measure_holding

BOUND = 1.1
Row = tuple[int, str, float, float, float, float]


def measure(num_parts: int) -> list[Row]:
    """For each server of a deployment: its share, what it holds empty and loaded, in MiB."""
    options = partwise.DeployOptions(threads=1)
    with partwise.deploy(SMOLLM2, parts=num_parts, options=options) as net:
        rows = []
        for name, _, resident_bytes, empty_bytes in net.memory:
            share_bytes = measure_holding(net.plan, net.model, name).weight_bytes
            added = (resident_bytes - empty_bytes) / share_bytes
            sizes = (share_bytes / MIB, empty_bytes / MIB, resident_bytes / MIB)
            rows.append((num_parts, name, *sizes, added))
    assert len(rows) == num_parts, f"{len(rows)} of {num_parts} servers said what they hold"
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="1,2,3,5")
    args = parser.parse_args()
    rows = [row for text in args.parts.split(",") for row in measure(int(text))]
    headers = ("parts", "part", "share MiB", "empty MiB", "loaded MiB", "added / share")
    print(format_table(headers, [(*row[:-1], f"{row[-1]:.3f}") for row in rows]))
    worst = max(row[-1] for row in rows)
    report(
        "memory", {"worst_ratio": worst}, {"servers": rows}, is_default=has_defaults(parser, args)
    )
    return int(not worst <= BOUND)


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
