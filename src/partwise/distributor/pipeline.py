"""What a chain of stages adds up to: microbatches, and the time of a cycle.

Times of stages and of hops come from others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """How stages' times make the time of a cycle.

    ``num_microbatches`` pass through in a cycle, each of which takes ``fixed_s`` besides the
    stages; no microbatch follows another sooner than ``link_s``. With ``is_filled`` (training)
    each cycle fills the pipeline and drains it.
    """

    num_microbatches: int
    fixed_s: float = 0.0
    link_s: float = 0.0
    is_filled: bool = False

    def cycle_s(self, slowest_s: float, stages_s: float) -> float:
        """Seconds of a cycle, from the slowest stage and the sum over all."""
        slowest_s, trip_s = max(slowest_s, self.link_s), stages_s + self.fixed_s
        if self.is_filled:
            return (self.num_microbatches - 1) * slowest_s + trip_s
        return max(self.num_microbatches * slowest_s, trip_s)


def split_streams(streams: int, num_stages: int) -> tuple[int, int]:
    """The rows of the largest microbatch and the number of them: as even as the stages ask."""
    rows = -(-streams // num_stages)
    return rows, -(-streams // rows)
