"""The exchange of members over links in memory: each a thread with a poller of its own."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from partwise.errors import DeadlineExceeded, FrameError, LinkClosed
from partwise.registry.routes import ExchangeCall
from partwise.remote.channel import MemoryChannel
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from support.exchange import run_members
from support.seats import Seat, make_routes, seat_members

SHAPES = [(1, 5), (3, 64), (1, 2), (2, 1), (7, 576), (0, 8), (128, 33)]


def give(index: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([index, step]).standard_normal(shape, np.float32)


def add(num_members: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """In the order of the plan."""
    total = give(0, step, shape)
    for index in range(1, num_members):
        total = total + give(index, step, shape)
    return total


@pytest.mark.parametrize("num_members", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_every_member_holds_the_bits_of_the_sum_in_the_order_of_the_plan(
    num_members: int, seed: int | None
) -> None:
    seats = seat_members(num_members, seed=seed)

    def run(index: int) -> list[tuple[bytes, list[list[int]]]]:
        seat, found = seats[index], []
        for step, shape in enumerate(SHAPES, start=1):
            seat.begin(step)
            partial = give(index, step, shape)
            kept = partial.copy()
            total = seat.members.sum(partial)
            assert (total.shape, total.dtype) == (shape, np.float32)
            assert np.array_equal(partial, kept)
            partial[:] = np.nan  # what was given is the caller's own again
            found.append(total.tobytes())
            total[:] = np.nan
            own = np.full((index + step, 2), 10 * index + step)
            given = [tensor.tolist() for tensor in seat.members.gather(own)]
            assert given == [[[10 * i + step] * 2] * (i + step) for i in range(num_members)]
            seat.members.end_pass()
        return found

    found = run_members(run, num_members)
    expected = [add(num_members, s, shape).tobytes() for s, shape in enumerate(SHAPES, start=1)]
    assert found == [expected] * num_members
    for seat in seats:
        seat.close()


@pytest.mark.parametrize("num_members", [2, 3])
def test_large_partials_that_all_send_at_once_do_not_stall(num_members: int) -> None:
    seats, shape = seat_members(num_members, capacity=1 << 16), (512, 4096)  # 8 MiB

    def run(index: int) -> bool:
        seats[index].begin(1)
        is_right = True
        for step in (1, 2):
            total = seats[index].members.sum(give(index, step, shape))
            is_right &= np.array_equal(total, add(num_members, step, shape))
        return is_right

    assert run_members(run, num_members) == [True] * num_members
    for seat in seats:
        seat.close()


@pytest.mark.parametrize("num_members", [2, 3, 4])
def test_what_is_counted_is_what_routes_predict(num_members: int) -> None:
    seats, (rows, width) = seat_members(num_members), (3, 50)

    def run(index: int) -> None:
        seats[index].begin(1)
        seats[index].members.sum(give(index, 1, (rows, width)))
        seats[index].members.gather(np.zeros((rows, 2), np.int64))

    run_members(run, num_members)
    calls = [
        ExchangeCall(layer=1, kind="mlp_unit", method="sum", row_bytes=4 * width),
        ExchangeCall(layer=2, kind="vocabulary_row", method="gather", row_bytes=16),
    ]
    for index, seat in enumerate(seats):
        exchanged = seat.accounts.exchanged
        assert exchanged.calls == 2
        assert exchanged.sent_bytes == sum(c.sent_bytes(rows, num_members, index) for c in calls)
        assert 0 <= exchanged.wait_ns <= exchanged.ns
        seat.close()


def test_a_member_that_is_late_is_named_with_step_exchange_and_plan_version() -> None:
    seats = seat_members(3, exchange_s=0.3)
    seen: list[str] = []

    def watch() -> None:
        time.sleep(0.15)
        seen.append(seats[0].members.waits_for)

    def run(index: int) -> str:
        if index == 2:
            watch()
            return ""
        seats[index].begin(7)
        with pytest.raises(DeadlineExceeded) as info:
            seats[index].members.sum(give(index, 1, (2, 2)))
        return str(info.value)

    said = run_members(run, 3)
    for index in (0, 1):
        assert f"part{index} waited 0.3 s for part2, a member of its stage" in said[index]
        assert "at step 7, exchange 1, round 1 (plan_version 1)" in said[index]
    assert seen == ["part2"]
    for seat in seats:
        seat.close()


def test_a_member_that_takes_nothing_of_what_it_is_sent_is_late_too() -> None:
    seat = Seat(make_routes(2, 0), exchange_s=0.3)
    ours, theirs = MemoryChannel.pair(capacity=1 << 10)
    seat.join("part1", ours)
    other = Link(theirs, "part0")
    partial = give(1, 1, (100, 100))
    small = Frame(
        kind=FrameKind.PARTIAL_SUM, plan_version=1, step=1, layer=1, tensors=(partial[:1],)
    )
    seat.begin(1)
    thread = threading.Thread(target=other.send, args=(small,))
    thread.start()
    with pytest.raises(DeadlineExceeded, match="part0 waited 0.3 s for part1"):
        seat.members.sum(partial)
    thread.join()
    seat.close()


@pytest.mark.quiet
def test_a_member_that_goes_away_ends_the_wait_at_once() -> None:
    seats = seat_members(2)
    seats[0].begin(1)
    timer = threading.Timer(0.1, seats[1].close)
    timer.start()
    start_s = time.monotonic()
    with pytest.raises(LinkClosed):
        seats[0].members.sum(give(0, 1, (1, 8)))
    assert time.monotonic() - start_s < 5
    timer.join()
    with pytest.raises(LinkClosed):
        seats[0].members.sum(give(0, 1, (1, 8)))
    seats[0].close()


def test_partial_sums_of_who_is_no_member_end_its_link() -> None:
    seat = Seat(make_routes(2, 0))
    ours, theirs = MemoryChannel.pair()
    seat.join("part9", ours, is_member=False)
    stranger = Link(theirs, "part0")
    stranger.send(Frame(kind=FrameKind.PARTIAL_SUM, plan_version=1, step=1, layer=1))
    with pytest.raises(FrameError, match="part9 sent a partial sum, and is no member of the st"):
        seat._attend(5)
    seat.close()


def test_buffers_of_what_came_go_back_to_their_links() -> None:
    seats = seat_members(3)

    def run(index: int) -> None:
        for step in range(1, 4):
            seats[index].begin(step)
            seats[index].members.sum(give(index, step, (4, 64)))
            seats[index].members.gather(np.zeros(1, np.int64))
            seats[index].members.end_pass()

    run_members(run, 3)
    for seat in seats:
        assert [link._held_bytes for link in seat.links.values()] == [0, 0]
        seat.close()
