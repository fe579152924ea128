"""What servers really allocate, against the footprint that the planner counts, on SmolLM2.

Prompts of several streams are read in chunks and a few tokens decoded; meanwhile the resident
memory of each server is looked at every millisecond. Its peak, less what the server held when it
was empty, may differ from the footprint of its part by 10 %.

    python bench/footprint.py [--tokens N]
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import partwise
from harness import SMOLLM2, has_defaults, report
from partwise.cli.format import MIB, format_table
from partwise.distributor.footprint import part_footprint
from partwise.distributor.workload import Workload
from partwise.engine.scheduler import PREFILL_CHUNK_TOKENS

BOUND = 0.10
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOOK_S = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How a deployment is used: prompts of so many tokens, in so many streams, on parts."""

    parts: int
    streams: int
    prompt_tokens: int

    @property
    def new_tokens(self) -> int:
        """So many that the first stream still decodes when the last one has read its prompt."""
        return self.streams * -(-self.prompt_tokens // PREFILL_CHUNK_TOKENS) + 4


USAGES = (
    Usage(parts=1, streams=1, prompt_tokens=64),
    Usage(parts=1, streams=1, prompt_tokens=1500),
    Usage(parts=1, streams=8, prompt_tokens=700),
    Usage(parts=2, streams=4, prompt_tokens=1500),
    Usage(parts=3, streams=4, prompt_tokens=1100),
    Usage(parts=5, streams=2, prompt_tokens=1900),
)


class Watch:
    """The most that each process holds of its own memory while this context lasts."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.peak_bytes = dict.fromkeys(pids, 0)
        self._files = {name: Path(f"/proc/{pid}/statm") for name, pid in pids.items()}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_S):
            for name, file in self._files.items():
                _, resident, shared, *_ = file.read_text().split()
                own = (int(resident) - int(shared)) * PAGE_BYTES
                self.peak_bytes[name] = max(self.peak_bytes[name], own)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()


def measure(usage: Usage) -> list[dict[str, Any]]:
    """For each part what it allocated at most and what the planner counts, in bytes."""
    options = partwise.DeployOptions(threads=1)
    with partwise.deploy(SMOLLM2, parts=usage.parts, options=options) as net:
        with Watch(net.pids) as watch:
            run(net, usage)
            time.sleep(10 * LOOK_S)
        workload = Workload(
            streams=usage.streams,
            context_tokens=usage.prompt_tokens + usage.new_tokens,
            sequences=usage.streams,
            prefill_tokens=min(PREFILL_CHUNK_TOKENS, usage.prompt_tokens * usage.streams),
        )
        rows = []
        for part, (name, _, _, empty_bytes) in zip(net.plan.parts, net.memory, strict=True):
            counted = part_footprint(net.plan, net.model, name, workload)
            allocated = watch.peak_bytes[part.server] - empty_bytes
            rows.append(
                {
                    "parts": usage.parts,
                    "streams": usage.streams,
                    "prompt_tokens": usage.prompt_tokens,
                    "part": name,
                    "weight_bytes": counted.weight_bytes,
                    "kv_bytes": counted.kv_bytes,
                    "reused_bytes": counted.reused_bytes,
                    "counted_bytes": counted.total_bytes,
                    "allocated_bytes": allocated,
                    "error": counted.total_bytes / allocated - 1,
                }
            )
        return rows


def run(net: partwise.Net, usage: Usage) -> None:
    """Read the prompts and decode."""
    words = itertools.cycle(range(1000, 2000))
    generations = [
        net.submit(
            partwise.Request(
                prompt_ids=tuple(itertools.islice(words, usage.prompt_tokens)),
                max_tokens=usage.new_tokens,
            )
        )
        for _ in range(usage.streams)
    ]
    for generation in generations:
        for _ in generation:
            pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    rows = [row for usage in USAGES for row in measure(usage)]
    sizes = ("weight_bytes", "kv_bytes", "reused_bytes", "counted_bytes", "allocated_bytes")
    headers = ("parts", "streams", "prompt", "part", "weights MiB", "KV MiB", "reused MiB",
               "counted MiB", "allocated MiB", "error")  # fmt: skip
    table = [
        (row["parts"], row["streams"], row["prompt_tokens"], row["part"],
         *(row[size] / MIB for size in sizes), f"{row['error']:+.1%}")
        for row in rows
    ]  # fmt: skip
    print(format_table(headers, table))
    worst = max(abs(row["error"]) for row in rows)
    report(
        "footprint",
        {"footprint_error_max": worst},
        {"parts": rows},
        is_default=has_defaults(parser, parser.parse_args()),
    )
    return int(not worst <= BOUND)


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
