"""What int4 servers take: resident memory against their compressed share, and how soon a second
start shows its first token.

A copy of SmolLM2's directory is deployed in one and in two parts, each twice: the first start
builds the graphs, the second finds them. Resident is all that the kernel counts for a process at
its peak, mapped files included: of servers that serve, and of those that build as well.

    python bench/int4_server.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import partwise
from first_token import measure_command
from footprint import Usage, run
from harness import SMOLLM2, has_defaults, report
from partwise.cli.format import MIB, format_table
from partwise.distributor.footprint import part_footprint
from partwise.distributor.workload import Workload

ALLOWED_BYTES = 150_000_000
"""Beside its compressed share and its KV cache."""
FIRST_TOKEN_BOUND_S = 5.0
PARTS = (1, 2)
STREAMS, PROMPT_TOKENS = 4, 300


def measure_servers(path: Path, parts: int, *, is_building: bool) -> list[dict[str, Any]]:
    """For each part what it takes and what it may; ``is_building``: there are no graphs yet."""
    usage = Usage(parts=parts, streams=STREAMS, prompt_tokens=PROMPT_TOKENS)
    options = partwise.DeployOptions(threads=1, precision="int4", runner="onnx")
    with partwise.deploy(path, parts=parts, options=options) as net:
        run(net, usage)
        peaks = {name: read_peak(pid) for name, pid in net.pids.items()}
        workload = Workload(
            precision="int4",
            streams=STREAMS,
            context_tokens=PROMPT_TOKENS + usage.new_tokens,
            sequences=STREAMS,
        )
        rows = []
        for part in net.plan.parts:
            counted = part_footprint(net.plan, net.model, part.name, workload)
            share, kv = counted.weight_bytes, counted.kv_bytes
            rows.append(
                {
                    "parts": parts,
                    "part": part.name,
                    "share_bytes": share,
                    "kv_bytes": kv,
                    "resident_bytes": peaks[part.server],
                    "beside_bytes": peaks[part.server] - share - kv,
                    "is_building": is_building,
                }
            )
        return rows


def read_peak(pid: int) -> int:
    """The most that was resident of a process so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM")


def copy_model(folder: Path) -> Path:
    """SmolLM2's files under another path, without what was built for it."""
    path = folder / SMOLLM2.name
    path.mkdir()
    for file in SMOLLM2.iterdir():
        if file.is_file():
            (path / file.name).symlink_to(file.resolve())
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="partwise-") as folder:
        path = copy_model(Path(folder))
        words = ["generate", str(path), "What is the capital of France?", "--parts", "3"]
        words += ["--precision", "int4"]
        starts_s = [measure_command(words)[0] for _ in range(4)]
        rows = [
            row
            for parts in PARTS
            for is_building in (True, False)
            for row in measure_servers(path, parts, is_building=is_building)
        ]
    headers = ("parts", "part", "builds", "share MiB", "KV MiB", "resident MiB", "beside MiB")
    sizes = ("share_bytes", "kv_bytes", "resident_bytes", "beside_bytes")
    table = [
        (
            row["parts"],
            row["part"],
            "yes" if row["is_building"] else "no",
            *(row[size] / MIB for size in sizes),
        )
        for row in rows
    ]
    print(format_table(headers, table))
    figures = {
        "beside_bytes_max": max(r["beside_bytes"] for r in rows if not r["is_building"]),
        "beside_bytes_max_building": max(r["beside_bytes"] for r in rows if r["is_building"]),
        "first_start_s": starts_s[0],
        "second_start_s": max(starts_s[1:]),
    }
    report(
        "int4_server",
        figures,
        {"parts": rows, "starts_s": starts_s},
        is_default=has_defaults(parser, args),
    )
    is_met = figures["beside_bytes_max"] <= ALLOWED_BYTES
    return int(not (is_met and figures["second_start_s"] < FIRST_TOKEN_BOUND_S))


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
