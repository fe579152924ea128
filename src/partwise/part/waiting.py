"""How threads and servers of this process wait: awake, or asleep."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"
"""OpenMP reads it once, when torch is imported."""


def waits_asleep() -> bool:
    """Whether whoever started this process has more threads than processors: one that waits awake
    takes a processor from one that computes (docs/decisions/0010, 0021)."""
    return os.environ.get(WAIT_POLICY, "").upper() == "PASSIVE"
