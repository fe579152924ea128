from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.part import machine as machine_module
from partwise.part.events import (
    Action,
    Assigned,
    Broken,
    Compute,
    Computed,
    Consume,
    Forget,
    Joined,
    Load,
    LoadDone,
    Push,
    Received,
    Refuse,
    Released,
    Reset,
    Spanned,
    Unassigned,
)
from partwise.part.machine import PartMachine, Phase
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag

VERSION = 7
WIDTH = 2


def assigned(*, is_first: bool = False, is_last: bool = False) -> Assigned:
    return Assigned(
        part="part1",
        plan_version=VERSION,
        is_first=is_first,
        is_last=is_last,
        input_dtype=np.dtype(np.int64 if is_first else np.float32),
        input_widths=() if is_first else (WIDTH,),
    )


ASSIGNED = assigned()


def forward(*rows: tuple[int, int, int], step: int = 1, version: int = VERSION) -> Frame:
    """A frame of (sequence, position, number of tokens) rows."""
    return Frame(
        kind=FrameKind.FORWARD,
        plan_version=version,
        microbatch=step,
        step=step,
        rows=tuple(Row(*row) for row in rows),
        tensors=(np.zeros((sum(row[2] for row in rows), WIDTH), np.float32),),
    )


def serving(*, is_first: bool = False, is_last: bool = False) -> PartMachine:
    machine = PartMachine()
    machine.handle(assigned(is_first=is_first, is_last=is_last))
    machine.handle(LoadDone())
    if not (is_first and is_last):
        machine.handle(Joined())
    assert machine.phase is Phase.SERVING
    return machine


def kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


def test_an_assignment_goes_through_its_phases() -> None:
    machine = PartMachine()
    assert machine.phase is Phase.IDLE
    assert kinds(machine.handle(ASSIGNED)) == [Load]
    assert machine.phase is Phase.LOADING
    assert machine.handle(LoadDone()) == []
    assert machine.phase is Phase.LOADED
    assert machine.handle(Joined()) == []
    assert machine.phase is Phase.SERVING


def test_a_part_alone_needs_no_next_one_and_the_last_of_several_needs_the_first() -> None:
    for is_first, phase in ((True, Phase.SERVING), (False, Phase.LOADED)):
        machine = PartMachine()
        machine.handle(assigned(is_first=is_first, is_last=True))
        machine.handle(LoadDone())
        assert machine.phase is phase


def test_the_last_part_tells_the_first_what_it_picked_then_answers_the_coordinator() -> None:
    machine = serving(is_last=True)
    chunk, asks = Row(0, 0, 2), Row(1, 0, 1, int(RowFlag.PICK))
    frame = msgspec.structs.replace(forward((0, 0, 2), (1, 0, 1), step=4), rows=(chunk, asks))
    machine.handle(Received(frame))
    ids, logprobs = np.array([7]), np.zeros(1, np.float32)
    picks, result, consume = machine.handle(Computed(frame, (ids, logprobs)))
    assert isinstance(picks, Push)
    assert isinstance(result, Push)
    assert (picks.to_coordinator, result.to_coordinator) == (False, True)
    assert picks.frame.kind is result.frame.kind is FrameKind.RESULT
    assert (picks.frame.rows, picks.frame.tensors) == ((asks,), (ids,))
    assert (result.frame.rows, result.frame.tensors) == (frame.rows, (ids, logprobs))
    assert (picks.frame.step, picks.frame.plan_version) == (4, VERSION)
    assert consume == Consume(frame)


def test_a_last_part_that_was_asked_for_no_pick_answers_the_coordinator_alone() -> None:
    machine = serving(is_last=True)
    frame = forward((0, 0, 3))
    machine.handle(Received(frame))
    push, _ = machine.handle(Computed(frame, ()))
    assert isinstance(push, Push)
    assert push.to_coordinator
    assert push.frame.kind is FrameKind.RESULT


def test_a_frame_is_computed_then_pushed_then_consumed() -> None:
    machine = serving()
    frame = forward((0, 0, 3), step=4)
    assert machine.handle(Received(frame)) == [Compute(frame)]
    assert (machine.received_step, machine.finished_step) == (4, 0)
    push, consume = machine.handle(Computed(frame, ()))
    assert isinstance(push, Push)
    assert not push.to_coordinator
    assert (push.frame.kind, push.frame.plan_version) == (FrameKind.FORWARD, VERSION)
    assert (push.frame.step, push.frame.microbatch) == (4, 4)
    assert push.frame.rows == frame.rows
    assert consume == Consume(frame)
    assert machine.finished_step == 4


def test_a_duplicate_is_consumed_and_never_computed_twice() -> None:
    machine = serving()
    first, again = forward((0, 0, 3)), forward((0, 0, 3))
    machine.handle(Received(first))
    assert machine.handle(Received(again)) == [Consume(again)]
    machine.handle(Computed(first, ()))
    assert machine.handle(Received(again)) == [Consume(again)]


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
def test_a_frame_of_another_plan_version_is_refused_with_both_numbers(version: int) -> None:
    machine = serving()
    frame = forward((0, 0, 1), version=version)
    refuse, consume = machine.handle(Received(frame))
    assert isinstance(refuse, Refuse)
    assert f"plan_version {VERSION}, the frame is of {version}" in refuse.reason
    assert consume == Consume(frame)


@pytest.mark.parametrize("row", [(0, 4, 1), (1, 1, 1), (0, 3, 0)], ids=["gap", "new", "empty"])
def test_a_frame_after_a_gap_is_refused(row: tuple[int, int, int]) -> None:
    machine = serving()
    machine.handle(Received(forward((0, 0, 3))))
    frame = forward(row)
    refuse, consume = machine.handle(Received(frame))
    assert isinstance(refuse, Refuse)
    assert f"of sequence {row[0]}" in refuse.reason
    assert consume == Consume(frame)


@pytest.mark.parametrize("kind", [FrameKind.GRADIENT, FrameKind.PARTIAL_SUM, FrameKind.RESULT])
def test_kinds_that_are_only_reserved_are_refused(kind: FrameKind) -> None:
    frame = Frame(kind=kind, plan_version=VERSION, rows=(Row(0, 0, 1),))
    refuse, _ = serving().handle(Received(frame))
    assert isinstance(refuse, Refuse)
    assert kind.name in refuse.reason


@pytest.mark.parametrize("events", [[], [ASSIGNED], [ASSIGNED, LoadDone()], [ASSIGNED, Broken()]])
def test_a_part_that_does_not_serve_refuses_frames(events: list) -> None:
    machine = PartMachine()
    for event in events:
        machine.handle(event)
    frame = forward((0, 0, 1))
    refuse, consume = machine.handle(Received(frame))
    assert isinstance(refuse, Refuse)
    assert f"is {machine.phase}, not serving" in refuse.reason
    assert consume == Consume(frame)


def test_frames_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MAX_WAITING_FRAMES", 2)
    machine = serving()
    for sequence in range(3):  # one is computed, two wait
        assert Refuse not in kinds(machine.handle(Received(forward((sequence, 0, 1)))))
    refuse, _ = machine.handle(Received(forward((3, 0, 1))))
    assert isinstance(refuse, Refuse)
    assert "2 frames wait" in refuse.reason


def test_a_released_sequence_starts_again_at_position_0() -> None:
    machine = serving()
    frame = forward((0, 0, 3))
    machine.handle(Received(frame))
    machine.handle(Computed(frame, ()))
    assert machine.handle(Released((0, 5))) == [Forget((0, 5))]
    again = forward((0, 0, 3))
    assert machine.handle(Received(again)) == [Compute(again)]


def test_what_is_computed_when_the_assignment_ends_goes_nowhere() -> None:
    for end in (Unassigned(), Broken()):
        machine = serving()
        frame = forward((0, 0, 1))
        machine.handle(Received(frame))
        machine.handle(end)
        assert machine.handle(Computed(frame, ())) == []


EVENTS = st.lists(
    st.sampled_from(
        ["next", "next", "next", "two rows", "duplicate", "stale", "gap", "computed", "computed",
         "release", "break", "unassign"]
    ),
    max_size=60,
)  # fmt: skip


class Walk:
    """Feeds a machine random events and checks what holds at every step.

    A frame is an object: its identity stands for the buffer that it lies in.
    """

    def __init__(self, draw: st.DataObject) -> None:
        self.machine = serving()
        self.draw = draw
        self.positions: dict[int, int] = {}
        self.taken: list[Frame] = []  # accepted, in the order of arrival
        self.computed: list[Frame] = []
        self.received: list[Frame] = []
        self.consumed: Counter[int] = Counter()
        self.abandoned: set[int] = set()  # under computation when the assignment ended
        self.computing: Frame | None = None
        self.step = 0
        self.last: Frame | None = None

    def frame(self, name: str) -> Frame:
        self.step += 1
        if name == "duplicate" and self.last is not None:
            return forward(*[(r.sequence, r.position, r.num_tokens) for r in self.last.rows])
        count = 2 if name == "two rows" else 1
        first = self.draw.draw(st.integers(0, 3))
        rows = []
        for sequence in range(first, first + count):
            position = self.positions.get(sequence, 0) + (name == "gap")
            rows.append((sequence, position, self.draw.draw(st.integers(1, 4))))
        version = VERSION - (name == "stale")
        return forward(*rows, step=self.step, version=version)

    def do(self, name: str) -> None:
        if name == "computed":
            if self.computing is not None:
                frame, self.computing = self.computing, None
                self.check(self.machine.handle(Computed(frame, ())))
        elif name == "release":
            self.positions.pop(0, None)
            assert self.machine.handle(Released((0,))) == [Forget((0,))]
        elif name in ("break", "unassign"):
            self.end(Broken() if name == "break" else Unassigned())
        else:
            self.receive(name, self.frame(name))

    def receive(self, name: str, frame: Frame) -> None:
        known = [r.position < self.positions.get(r.sequence, 0) for r in frame.rows]
        is_duplicate = all(known)
        is_mixed = any(known) and not is_duplicate  # one of its sequences was released since
        has_gap = any(r.position > self.positions.get(r.sequence, 0) for r in frame.rows)
        self.received.append(frame)
        actions = self.machine.handle(Received(frame))
        is_refused = any(isinstance(action, Refuse) for action in actions)
        is_stale = frame.plan_version != VERSION
        is_serving = self.machine.phase is Phase.SERVING
        assert is_refused == (is_mixed or has_gap or is_stale or not is_serving)
        if not is_refused and not is_duplicate:
            self.taken.append(frame)
            self.last = frame
            for row in frame.rows:
                self.positions[row.sequence] = row.position + row.num_tokens
        self.check(actions)

    def check(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Compute):
                assert self.computing is None, "two frames are computed at once"
                self.computing = action.frame
                self.computed.append(action.frame)
            elif isinstance(action, Consume):
                assert action.frame is not self.computing, "its buffer is computed on"
                self.consumed[id(action.frame)] += 1

    def end(self, event: Broken | Unassigned) -> None:
        if self.computing is not None:
            self.abandoned.add(id(self.computing))
        self.computing = None
        self.check(actions := self.machine.handle(event))
        if isinstance(event, Broken):
            assert self.machine.phase is Phase.FAILED
            return
        assert isinstance(actions[-1], Reset)
        fresh = PartMachine()
        for name in ("phase", "assignment", "received_step", "finished_step", "name"):
            assert getattr(self.machine, name) == getattr(fresh, name)
        self.taken, self.computed, self.positions, self.last = [], [], {}, None
        self.machine.handle(ASSIGNED)
        self.machine.handle(LoadDone())
        self.machine.handle(Joined())


def test_a_frame_of_which_only_some_rows_are_known_is_refused() -> None:
    machine = serving()
    machine.handle(Received(forward((0, 0, 1), (1, 0, 1))))
    machine.handle(Released((1,)))
    refuse, consume = machine.handle(Received(forward((0, 0, 1), (1, 0, 1))))
    assert isinstance(refuse, Refuse)
    assert "expects position 1 of sequence 0" in refuse.reason
    assert isinstance(consume, Consume)


@given(names=EVENTS, data=st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_comes_each_frame_is_computed_once_in_order_and_consumed_once(
    names: list[str], data: st.DataObject
) -> None:
    walk = Walk(data)
    for name in names:
        walk.do(name)
        assert walk.computed == walk.taken[: len(walk.computed)]
        assert all(a is b for a, b in zip(walk.computed, walk.taken, strict=False))
    while walk.computing is not None:
        walk.do("computed")
    if walk.machine.phase is Phase.SERVING:
        assert len(walk.computed) == len(walk.taken)
    for frame in walk.received:
        expected = 0 if id(frame) in walk.abandoned else 1
        assert walk.consumed[id(frame)] == expected


@pytest.mark.parametrize(
    "tensors",
    [
        (),
        (np.zeros((3, WIDTH), np.float32),) * 2,
        (np.zeros((2, WIDTH), np.float32),),
        (np.zeros((3, WIDTH + 1), np.float32),),
        (np.zeros(3, np.int64),),
        (np.zeros((3, WIDTH), np.float16),),
    ],
    ids=["none", "two", "too few tokens", "too wide", "ids", "another dtype"],
)
def test_tensors_that_the_part_does_not_compute_on_are_refused(
    tensors: tuple[np.ndarray, ...],
) -> None:
    machine = serving()
    frame = msgspec.structs.replace(forward((0, 0, 3)), tensors=tensors)
    assert kinds(machine.handle(Received(frame))) == [Refuse, Consume]
    assert kinds(machine.handle(Received(forward((0, 0, 3))))) == [Compute], "nothing was taken"


def test_a_frame_of_known_and_new_rows_is_refused_whole() -> None:
    machine = serving()
    machine.handle(Received(forward((0, 0, 3))))
    assert kinds(machine.handle(Received(forward((0, 0, 3), (1, 0, 2))))) == [Refuse, Consume]
    assert machine.handle(Received(forward((1, 0, 2)))) == [], "it waits: nothing was dropped"


def test_two_rows_of_one_sequence_follow_each_other() -> None:
    machine = serving()
    assert kinds(machine.handle(Received(forward((0, 0, 3), (0, 0, 3))))) == [Refuse, Consume]
    assert kinds(machine.handle(Received(forward((0, 0, 3), (0, 3, 1))))) == [Compute]


def test_what_breaks_after_the_coordinator_left_leaves_the_server_free() -> None:
    machine = serving()
    machine.handle(Unassigned())
    assert machine.handle(Broken()) == []
    assert machine.phase is Phase.IDLE


def test_a_step_of_another_plan_is_refused_with_the_steps_of_this_one() -> None:
    machine = serving()
    assert kinds(machine.handle(Received(forward((0, 0, 3), step=1)))) == [Compute]
    machine.handle(Spanned(0, 5))
    assert machine.handle(Received(forward((1, 0, 3), step=4))) == [], "it waits"
    refuse, _ = machine.handle(Received(forward((2, 0, 3), step=5)))
    says = "part1 computes steps 0:5 under plan_version 7, the frame is of step 5"
    assert refuse.reason == says


def test_what_is_prepared_computes_nothing_before_its_first_step() -> None:
    machine = serving()
    machine.handle(Spanned(0, 0))
    assert kinds(machine.handle(Received(forward((0, 0, 3), step=1)))) == [Refuse, Consume]
    machine.handle(Spanned(9, 100))
    assert kinds(machine.handle(Received(forward((0, 0, 3), step=8)))) == [Refuse, Consume]
    assert kinds(machine.handle(Received(forward((0, 0, 3), step=9)))) == [Compute]


def test_a_member_begins_with_the_first_step_of_its_plan() -> None:
    machine = PartMachine()
    machine.handle(msgspec.structs.replace(ASSIGNED, num_members=2))
    machine.handle(LoadDone())
    machine.handle(Joined())
    machine.handle(Spanned(9, 100))
    assert machine.received_step == 8
    assert machine.handle(Received(forward((1, 0, 1), step=10))) == [], "9 is before it"
    assert kinds(machine.handle(Received(forward((0, 0, 3), step=9)))) == [Compute]
