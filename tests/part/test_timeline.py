"""The account of a part's time, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.part import timeline as timeline_module
from partwise.part.accounts import Accounts
from partwise.part.timeline import Timeline
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.messages import SetClock


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timeline_module, "time", clock)
    return clock


def spent(timeline: Timeline) -> tuple[int, int, int, int]:
    sums = timeline.spent
    return sums.compute_ns, sums.wait_ns, sums.exposed_ns, sums.hidden_ns


def test_a_pass_with_a_turn_between_two_waits(clock: Clock) -> None:
    timeline = Timeline()
    timeline.wait()
    clock.now_ns += 500  # before the first frame nothing counts
    assert timeline.arrive(clock.now_ns - 30) == 30
    clock.now_ns += 7  # unpacking
    timeline.begin_pass()
    clock.now_ns += 100
    timeline.begin_turn()
    clock.now_ns += 5
    timeline.end_turn()
    clock.now_ns += 200
    timeline.end_pass()
    clock.now_ns += 11  # packing and sending
    timeline.wait()
    assert spent(timeline) == (300, 0, 7 + 5 + 11, 0)
    clock.now_ns += 1000  # the next frame is under way for the last 400 of these
    assert timeline.arrive(clock.now_ns - 400) == 400
    assert spent(timeline) == (300, 600, 23 + 400, 0)


def test_a_frame_under_way_while_this_part_computes_is_hidden_and_what_remains_exposed(
    clock: Clock,
) -> None:
    timeline = Timeline()
    timeline.arrive(clock.now_ns)
    timeline.begin_pass()
    clock.now_ns += 100
    left_ns = clock.now_ns - 60  # it leaves within the pass
    timeline.end_pass()
    timeline.wait()
    clock.now_ns += 25
    timeline.arrive(left_ns)
    assert spent(timeline) == (100, 0, 25, 60)
    timeline.begin_pass()
    clock.now_ns += 50
    timeline.begin_turn()
    timeline.arrive(clock.now_ns - 50)  # all of its way under this pass
    timeline.end_turn()
    assert spent(timeline) == (150, 0, 25, 110)


def test_nothing_arrives_before_it_left(clock: Clock) -> None:
    assert Timeline().arrive(clock.now_ns + 5) == 0, "a clock's estimate may be wrong by a little"


@pytest.mark.parametrize(
    ("is_from_part", "ahead_ns", "hops"), [(True, -(10**15), 1), (False, 10**14, 0)]
)
def test_the_clock_of_whom_a_frame_comes_from_is_taken_off_and_hops_are_between_parts(
    clock: Clock, is_from_part: bool, ahead_ns: int, hops: int
) -> None:
    accounts = Accounts()
    # The part's host started days before, the coordinator's a day after.
    accounts.set_clock(SetClock(ahead_ns=-(10**15), ahead_of_coordinator_ns=10**14))
    accounts.timeline.arrive(clock.now_ns)
    accounts.timeline.wait()
    clock.now_ns += 50
    frame = Frame(
        kind=FrameKind.FORWARD,
        plan_version=1,
        rows=(Row(0, 7, 1),),
        sent_ns=clock.now_ns - 30 - ahead_ns,
    )
    accounts.arrive(frame, is_from_part=is_from_part)
    counters = accounts.stats(0).counters
    assert (counters.hops, counters.hop_ns) == (hops, 30 * hops)
    assert spent(accounts.timeline) == (0, 20, 30, 0)


def test_picks_of_released_sequences_do_not_start_the_clock(clock: Clock) -> None:
    accounts = Accounts()
    rows = (Row(0, 7, 1, RowFlag.PICK),)
    accounts.arrive(Frame(kind=FrameKind.RESULT, rows=rows), is_from_part=True)
    accounts.timeline.wait()
    clock.now_ns += 10**12
    accounts.timeline.arrive(clock.now_ns)
    assert spent(accounts.timeline) == (0, 0, 0, 0)


def test_time_rests_between_sequences(clock: Clock) -> None:
    timeline = Timeline()
    timeline.arrive(clock.now_ns)
    timeline.begin_pass()
    clock.now_ns += 10
    timeline.end_pass()
    timeline.rest()
    timeline.wait()
    clock.now_ns += 10**12
    timeline.arrive(clock.now_ns)
    assert spent(timeline) == (10, 0, 0, 0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "arrive", "pass", "turn"]), st.integers(0, 1000)),
    max_size=40,
)


@given(steps=STEPS, data=st.data())
def test_computing_waiting_and_exposed_communication_add_up_to_the_time(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(timeline_module, "time", clock)
        timeline = Timeline()
        start_ns = clock.now_ns
        timeline.arrive(start_ns)
        for step, elapsed_ns in steps:
            if step == "wait":
                timeline.wait()
                clock.now_ns += elapsed_ns
                timeline.arrive(clock.now_ns - data.draw(st.integers(0, 3000)))
            elif step == "arrive":
                clock.now_ns += elapsed_ns
                timeline.arrive(clock.now_ns - data.draw(st.integers(0, 3000)))
            else:
                timeline.begin_pass()
                clock.now_ns += elapsed_ns
                if step == "turn":
                    timeline.begin_turn()
                    clock.now_ns += elapsed_ns // 3
                    timeline.arrive(clock.now_ns - elapsed_ns // 4)
                    timeline.end_turn()
                timeline.end_pass()
        timeline.wait()
        compute_ns, wait_ns, exposed_ns, hidden_ns = spent(timeline)
        assert compute_ns + wait_ns + exposed_ns == clock.now_ns - start_ns
        assert min(compute_ns, wait_ns, exposed_ns, hidden_ns) >= 0
