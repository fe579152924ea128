"""Brings the tables and pictures of docs/experiments/latency.md up to date with the last run of
`latency.py`.

    python bench/experiments/latency_page.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.page import PAGES, update_page
from experiments.two_servers.outcome import Outcome
from experiments.two_servers.pictures import draw
from experiments.two_servers.tables import tabulate
from harness import ROOT

RESULTS = ROOT / "bench" / "results" / "latency.json"
PAGE = PAGES / "latency.md"


def read_outcomes(path: Path) -> list[Outcome]:
    """Those of the last run."""
    return msgspec.convert(json.loads(path.read_text())["rounds"]["outcomes"], list[Outcome])


if __name__ == "__main__":
    found = read_outcomes(RESULTS)
    update_page(PAGE, tabulate(found))
    draw(PAGES, found)
