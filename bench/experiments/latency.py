"""The neuron-wise seed's experiment 1: one server against two, by layers and by neurons, over
bandwidths from 10 Mbit/s to loopback and delays from 0 to 50 ms one way.

This machine is probed first; the cost model's time a token for each layout under each condition
stands beside what was measured. The two servers have a processor each; with root they are on hosts
of their own (`two_servers/hosts.py`). `latency_page.py` brings docs/experiments/latency.md up to
date.

    python bench/experiments/latency.py [--rounds N] [--host FILE] [--few]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.two_servers.cases import Case, cross, list_cases
from experiments.two_servers.hosts import start_servers
from experiments.two_servers.measure import measure_case
from experiments.two_servers.outcome import Outcome
from experiments.two_servers.tables import summarise, tabulate
from harness import SMOLLM2, has_defaults, report
from partwise.cluster import Host
from partwise.cluster.toml_file import read_host, write_host
from plan_prediction import probe_host

ROUNDS = 3


def measure(cases: Sequence[Case], host: Host, num_rounds: int) -> list[Outcome]:
    """Every point of the cases, over servers that stay."""
    outcomes = []
    with start_servers() as servers:
        for case in cases:
            outcomes += measure_case(case, host, servers, num_rounds)
    return outcomes


def take_few(cases: Sequence[Case]) -> list[Case]:
    """Enough to see that everything runs: the first case under four conditions."""
    return [replace(cases[0], conditions=cross((100.0, None), (0.0, 5.0)))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--host", type=Path, help="a host file instead of a probe")
    parser.add_argument("--few", action="store_true", help="four conditions of one model")
    args = parser.parse_args()
    host = probe_host(None) if args.host is None else read_host(args.host)
    cases = list_cases()
    start_s = time.monotonic()
    outcomes = measure(take_few(cases) if args.few else cases, host, args.rounds)
    took_s = time.monotonic() - start_s
    for table in tabulate(outcomes):
        print(f"{table.render_text()}\n")
    figures = summarise(outcomes) | {"seconds": round(took_s)}
    details = {"host": write_host(host), "outcomes": [asdict(outcome) for outcome in outcomes]}
    report("latency", figures, details, is_default=has_defaults(parser, args))
    return 0


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
