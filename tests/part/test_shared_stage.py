"""The machine of a part that shares its stage: every step in its turn on every member."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from partwise.part.events import (
    Assigned,
    Broken,
    Compute,
    Computed,
    Consume,
    Forget,
    Joined,
    LoadDone,
    Push,
    Received,
    Refuse,
    Released,
    Unassigned,
)
from partwise.part.machine import PartMachine, Phase
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag

PICK, FOLLOWS = int(RowFlag.PICK), int(RowFlag.FOLLOWS)


def serving(
    *, is_first: bool = False, is_last: bool = False, is_leader: bool = False
) -> PartMachine:
    machine = PartMachine()
    machine.handle(
        Assigned(
            part="part1",
            plan_version=1,
            is_first=is_first,
            is_last=is_last,
            num_members=2,
            is_leader=is_leader,
            input_dtype=np.dtype(np.int64 if is_first else np.float32),
            input_widths=() if is_first else (2,),
        )
    )
    machine.handle(LoadDone())
    assert machine.phase is Phase.LOADED, "it needs the other members"
    machine.handle(Joined())
    return machine


def forward(step: int, *rows: Row, is_first: bool = False) -> Frame:
    rows = rows or (Row(step, 0, 1),)
    count = sum(row.num_tokens for row in rows)
    tensor = np.zeros(count, np.int64) if is_first else np.zeros((count, 2), np.float32)
    return Frame(
        kind=FrameKind.FORWARD, plan_version=1, microbatch=step, step=step, rows=rows,
        tensors=(tensor,),
    )  # fmt: skip


def test_a_step_waits_for_those_before_it() -> None:
    machine = serving()
    first, second, third = forward(1), forward(2), forward(3)
    assert machine.handle(Received(third)) == []
    assert (machine.received_step, machine.oldest_step) == (0, 3)
    assert not machine.waits_for_picks
    assert machine.handle(Received(first)) == [Compute(first)]
    assert (machine.received_step, machine.oldest_step) == (1, 1)
    assert machine.handle(Computed(first, ()))[-1] == Consume(first)
    assert machine.handle(Received(second)) == [Compute(second)]
    assert machine.received_step == 3
    assert machine.handle(Computed(second, ()))[-1] == Compute(third)


def test_a_step_that_lacks_its_pick_lets_none_pass() -> None:
    machine = serving(is_first=True)
    prompt = forward(1, Row(0, 0, 3, PICK), is_first=True)
    follower = forward(2, Row(0, 3, 1, PICK | FOLLOWS), is_first=True)
    other = forward(3, Row(1, 0, 2), is_first=True)
    machine.handle(Received(prompt))
    machine.handle(Computed(prompt, ()))
    assert machine.handle(Received(follower)) == machine.handle(Received(other)) == []
    assert machine.waits_for_picks
    told = Frame(
        kind=FrameKind.RESULT, plan_version=1, rows=prompt.rows, tensors=(np.array([9]),)
    )  # fmt: skip
    assert machine.handle(Received(told)) == [Consume(told), Compute(follower, ((0, 9),))]
    assert machine.handle(Computed(follower, ()))[-1] == Compute(other)


@pytest.mark.parametrize("is_computed", [False, True])
def test_a_step_that_was_taken_is_dropped_though_its_sequence_is_released(
    is_computed: bool,
) -> None:
    machine = serving()
    first = forward(1)
    machine.handle(Received(first))
    if is_computed:
        machine.handle(Computed(first, ()))
        machine.handle(Released((1,), 1))
    again = forward(1)
    assert machine.handle(Received(again)) == [Consume(again)]
    waiting = forward(3)
    machine.handle(Received(waiting))
    again = forward(3)
    assert machine.handle(Received(again)) == [Consume(again)]


def test_a_member_that_is_behind_forgets_when_it_has_computed_the_last_step() -> None:
    machine = serving()
    first, second, third = forward(1, Row(0, 0, 2)), forward(2, Row(0, 2, 1)), forward(3)
    machine.handle(Received(first))
    assert machine.handle(Released((0,), 2)) == [], "its second step did not come yet"
    assert machine.handle(Released((7,), 3)) == []
    machine.handle(Computed(first, ()))
    assert machine.handle(Received(second)) == [Compute(second)]
    machine.handle(Received(third))
    done = machine.handle(Computed(second, ()))
    assert done[-2:] == [Forget((0,)), Compute(third)]
    assert machine.handle(Computed(third, ()))[-1] == Forget((7,))
    assert machine.handle(Released((3,), 3)) == [Forget((3,))]
    assert not machine.has_sequences


def test_the_leader_alone_answers_and_all_know_what_was_picked() -> None:
    row = Row(0, 0, 1, PICK)
    for is_leader in (True, False):
        alone = serving(is_first=True, is_last=True, is_leader=is_leader)
        prompt = forward(1, row, is_first=True)
        follower = forward(2, Row(0, 1, 1, FOLLOWS), is_first=True)
        alone.handle(Received(prompt))
        alone.handle(Received(follower))
        *pushed, consume, compute = alone.handle(Computed(prompt, (np.array([5]),)))
        assert [push.to_coordinator for push in pushed] == [True] * is_leader
        assert (consume, compute) == (Consume(prompt), Compute(follower, ((0, 5),)))
        last = serving(is_last=True, is_leader=is_leader)
        last.handle(Received(frame := forward(1, row)))
        *pushed, consume = last.handle(Computed(frame, (np.array([5]),)))
        assert [push.to_coordinator for push in pushed] == [False, True][: 2 * is_leader]
        assert all(isinstance(push, Push) for push in pushed)


@pytest.mark.parametrize("end", [Broken(), Unassigned()])
def test_what_waits_for_its_turn_is_dropped_with_the_assignment(end: Broken | Unassigned) -> None:
    machine = serving()
    frames = [forward(3), forward(2)]
    for frame in frames:
        machine.handle(Received(frame))
    assert machine.handle(end)[:2] == [Consume(frame) for frame in frames]


def test_however_frames_come_all_steps_are_computed_in_order_and_consumed_once() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        machine, num_steps = serving(), rng.randint(1, 12)
        positions = dict.fromkeys(range(3), 0)
        frames: list[list[Frame]] = [[], [], []]  # a sequence's own frames come in order
        for step in range(1, num_steps + 1):
            sequence = rng.randrange(3)
            row = Row(sequence, positions[sequence], rng.randint(1, 3))
            positions[sequence] += row.num_tokens
            frames[sequence].append(forward(step, row))
        received, consumed, computed = [], [], []
        computing = None
        while any(frames) or computing is not None:
            ready = [queue for queue in frames if queue]
            if ready and (computing is None or rng.random() < 0.5):
                frame = rng.choice(ready).pop(0)
                received.append(frame)
                if rng.random() < 0.3:  # and it comes once more, some time later
                    rng.choice(ready).append(msgspec.structs.replace(frame))
                actions = machine.handle(Received(frame))
            else:
                actions = machine.handle(Computed(computing, ()))
                computing = None
            for action in actions:
                assert not isinstance(action, Refuse)
                if isinstance(action, Compute):
                    computing = action.frame
                    computed.append(computing.step)
                elif isinstance(action, Consume):
                    consumed.append(action.frame)
        assert computed == list(range(1, num_steps + 1))
        assert sorted(map(id, consumed)) == sorted(map(id, received))
        assert machine.finished_step == machine.received_step == num_steps
