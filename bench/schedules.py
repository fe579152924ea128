"""Three members of a stage with 8 microbatches in flight, over channels in memory that cut and
delay what they carry at random: 10,000 schedules. Frames must stay whole and in their order.

The schedules are those of tests/part/test_member_schedules.py, which runs a few of them.

    python bench/schedules.py [--schedules N]
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from harness import ROOT, has_defaults, report

sys.path.insert(0, str(ROOT / "tests"))

from partwise.errors import PartwiseError
from support.schedules import NUM_MEMBERS, NUM_STEPS, Channels, run_schedule

NUM_SCHEDULES = 10_000
BATCH = 100


def run_batch(start: int, stop: int) -> list[str]:
    """What went wrong in the schedules of these seeds."""
    wrong = []
    for seed in range(start, stop):
        try:
            run_schedule(seed, Channels(seed))
        except (AssertionError, PartwiseError) as exc:
            wrong.append(f"seed {seed}: {type(exc).__name__} {exc}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=NUM_SCHEDULES)
    args = parser.parse_args()
    starts = range(0, args.schedules, BATCH)
    stops = [min(start + BATCH, args.schedules) for start in starts]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        wrong = [text for found in pool.map(run_batch, starts, stops) for text in found]
    print("\n".join(wrong[:10]) or "every frame was whole and in its order")
    figures = {
        "num_schedules": args.schedules,
        "members": NUM_MEMBERS,
        "microbatches_in_flight": NUM_STEPS,
        "num_wrong": len(wrong),
    }
    report("schedules", figures, is_default=has_defaults(parser, args))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
