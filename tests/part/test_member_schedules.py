"""Three members of a stage with 8 microbatches in flight, under random schedules."""

from __future__ import annotations

import pytest

from partwise.errors import FrameError
from partwise.remote.frame import Frame
from support.schedules import Channels, Queues, Way, run_schedule

NUM_SCHEDULES = 10_000
NUM_OVER_CHANNELS = 100
"""bench/schedules.py runs 10,000."""


def test_frames_of_three_members_stay_whole_and_ordered_under_any_schedule() -> None:
    for seed in range(NUM_SCHEDULES):
        run_schedule(seed, Queues())


def test_so_they_do_over_channels_that_cut_and_delay_them_at_random() -> None:
    for seed in range(NUM_OVER_CHANNELS):
        run_schedule(seed, Channels(seed))


class Stacks(Queues):
    """What was sent last arrives first."""

    def turn(self, way: Way) -> tuple[list[Frame], bool]:
        return [self._frames[way].pop()], False


def test_ways_that_lose_their_order_are_noticed() -> None:
    with pytest.raises((AssertionError, FrameError)):
        run_schedule(0, Stacks())
