"""The first part of several, or one alone: frames that wait for what is picked meanwhile."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.part.events import (
    Action,
    Assigned,
    Broken,
    Compute,
    Computed,
    Consume,
    Joined,
    LoadDone,
    Push,
    Received,
    Refuse,
    Released,
    Reset,
    Unassigned,
)
from partwise.part.machine import PartMachine
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag

VERSION = 3
VOCABULARY = 1_000_000
PICK, FOLLOWS = int(RowFlag.PICK), int(RowFlag.FOLLOWS)


def token_at(sequence: int, position: int) -> int:
    """The token of a sequence at a position: given, or picked for it."""
    return 1000 * (sequence + 1) + position


def serving(*, is_alone: bool = False) -> PartMachine:
    machine = PartMachine()
    machine.handle(
        Assigned(
            part="part0",
            plan_version=VERSION,
            is_first=True,
            is_last=is_alone,
            input_dtype=np.dtype(np.int64),
            input_widths=(),
            vocab_size=VOCABULARY,
        )
    )
    machine.handle(LoadDone())
    if not is_alone:
        machine.handle(Joined())
    return machine


def forward(*rows: Row) -> Frame:
    """A frame of ``rows``, with 0 for the tokens of those that follow."""
    ids = [
        0 if row.flags & FOLLOWS else token_at(row.sequence, position)
        for row in rows
        for position in range(row.position, row.position + row.num_tokens)
    ]
    tensors = (np.array(ids, np.int64),)
    return Frame(kind=FrameKind.FORWARD, plan_version=VERSION, rows=rows, tensors=tensors)


def picks(*rows: Row) -> Frame:
    """What was picked for those of ``rows`` that ask."""
    asking = tuple(row for row in rows if row.flags & PICK)
    ids = [token_at(row.sequence, row.position + row.num_tokens) for row in asking]
    tensors = (np.array(ids, np.int64),)
    return Frame(kind=FrameKind.RESULT, plan_version=VERSION, rows=asking, tensors=tensors)


ASKS = Row(0, 0, 3, PICK)
FOLLOWER = Row(0, 3, 1, PICK | FOLLOWS)


def computed(machine: PartMachine, frame: Frame) -> list[Action]:
    return machine.handle(Computed(frame, ()))


def asked() -> PartMachine:
    """A machine that computed the prompt of sequence 0; its pick is not there yet."""
    machine = serving()
    machine.handle(Received(frame := forward(ASKS)))
    computed(machine, frame)
    return machine


def test_a_frame_waits_for_its_pick_and_others_pass_it() -> None:
    machine = asked()
    follower, other = forward(FOLLOWER), forward(Row(1, 0, 2))
    assert machine.handle(Received(follower)) == []
    assert machine.handle(Received(other)) == [Compute(other)]
    told = picks(ASKS)
    assert machine.handle(Received(told)) == [Consume(told)]
    assert computed(machine, other)[-1] == Compute(follower, ((0, token_at(0, 3)),))


def test_a_frame_does_not_overtake_one_of_the_same_sequence() -> None:
    machine = asked()
    mixed = forward(FOLLOWER, Row(1, 0, 2))
    machine.handle(Received(mixed))
    assert machine.handle(Received(forward(Row(1, 2, 2)))) == [], "it goes on after the first two"
    assert machine.handle(Received(told := picks(ASKS))) == [
        Consume(told),
        Compute(mixed, ((0, token_at(0, 3)),)),
    ]


def test_picks_that_come_again_late_do_not_hide_later_ones() -> None:
    machine = asked()
    machine.handle(Received(picks(ASKS)))
    machine.handle(Received(follower := forward(FOLLOWER)))
    computed(machine, follower)
    machine.handle(Received(picks(FOLLOWER)))
    machine.handle(Received(picks(ASKS)))
    following = forward(Row(0, 4, 1, FOLLOWS))
    expected = Compute(following, ((0, token_at(0, 4)),))
    assert machine.handle(Received(following)) == [expected]


@pytest.mark.parametrize(
    "rows",
    [
        (Row(1, 0, 1, FOLLOWS),),
        (Row(0, 3, 2, FOLLOWS),),
        (Row(0, 3, 1, PICK), Row(0, 4, 1, FOLLOWS)),
    ],
    ids=["an unknown sequence", "two tokens", "after a row of its own frame"],
)
def test_a_row_that_can_follow_nothing_is_refused(rows: tuple[Row, ...]) -> None:
    machine = asked()
    frame = msgspec.structs.replace(
        forward(*rows), tensors=(np.zeros(sum(row.num_tokens for row in rows), np.int64),)
    )
    refuse, consume = machine.handle(Received(frame))
    assert isinstance(refuse, Refuse)
    assert "can wait for one picked token after an earlier frame" in refuse.reason
    assert consume == Consume(frame)
    assert machine.handle(Received(forward(FOLLOWER))) == [], "nothing was taken of it"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tensors": ()}, "expects 1 picks"),
        ({"tensors": (np.zeros(2, np.int64),)}, "expects 1 picks"),
        ({"tensors": (np.zeros(1, np.int64),) * 2}, "expects 1 picks"),
        ({"tensors": (np.zeros(1, np.float32),)}, "expects 1 picks"),
        ({"tensors": (np.zeros((1, 1), np.int64),)}, "expects 1 picks"),
        ({"tensors": (np.array([-1]),)}, "was told of token -1, the vocabulary has"),
        ({"tensors": (np.array([VOCABULARY]),)}, "the vocabulary has"),
        ({"rows": ()}, "expects 0 picks"),
        ({"rows": (Row(0, 3, 1, PICK),)}, "for position 4 of sequence 0, which stands at 3"),
        ({"plan_version": VERSION - 1}, "serves plan_version 3, the frame is of 2"),
    ],
    ids=[
        "none",
        "too many",
        "two",
        "floats",
        "a matrix",
        "negative",
        "too large",
        "no rows",
        "too early",
        "stale",
    ],
)
def test_malformed_picks_are_refused(changes: dict[str, object], says: str) -> None:
    machine = asked()
    frame = msgspec.structs.replace(picks(ASKS), **changes)
    refuse, consume = machine.handle(Received(frame))
    assert isinstance(refuse, Refuse)
    assert says in refuse.reason
    assert consume == Consume(frame)
    assert not machine._picked._tokens


def test_picks_of_a_released_sequence_leave_nothing_behind() -> None:
    machine = asked()
    machine.handle(Released((0,)))
    assert machine.handle(Received(told := picks(ASKS))) == [Consume(told)]
    assert not machine._picked._tokens


def test_a_part_alone_notes_its_own_picks() -> None:
    machine = serving(is_alone=True)
    machine.handle(Received(prompt := forward(ASKS)))
    machine.handle(Received(follower := forward(FOLLOWER)))
    push, consume, compute = machine.handle(Computed(prompt, picks(ASKS).tensors))
    assert isinstance(push, Push)
    assert push.to_coordinator
    assert (consume, compute) == (Consume(prompt), Compute(follower, ((0, token_at(0, 3)),)))


def test_what_waits_for_picks_is_dropped_with_the_assignment() -> None:
    for end in (Broken(), Unassigned()):
        machine = asked()
        machine.handle(Received(follower := forward(FOLLOWER)))
        actions = machine.handle(end)
        assert actions[0] == Consume(follower)
        assert isinstance(actions[-1], Reset) == isinstance(end, Unassigned)
        refuse, _ = machine.handle(Received(picks(ASKS)))
        assert isinstance(refuse, Refuse), "its time is over"


class Course:
    """The first part, a coordinator that composes ahead and a last part that picks.

    Each sequence has a prompt, whose chunks ask for nothing but the last, and then tokens of
    which the coordinator knows some when it composes their row: the others follow.
    """

    def __init__(self, seed: int, *, is_alone: bool) -> None:
        self.choose = random.Random(seed).choice
        self.machine = serving(is_alone=is_alone)
        self.is_alone = is_alone
        self.prompt_tokens = {number: self.choose(range(1, 6)) for number in range(4)}
        self.stop = {number: n + self.choose(range(5)) for number, n in self.prompt_tokens.items()}
        self.sent: dict[int, int] = defaultdict(int)
        self.num_known = dict(self.prompt_tokens)  # tokens that the coordinator knows
        self.computed: dict[int, int] = defaultdict(int)
        self.frames: list[Frame] = []
        self.received: list[Frame] = []
        self.to_pick: deque[Frame] = deque()
        self.num_computed: Counter[int] = Counter()
        self.consumed: Counter[int] = Counter()
        self.released: set[int] = set()
        self.computing: Frame | None = None

    def unsent(self) -> list[int]:
        return [number for number, stop in self.stop.items() if self.sent[number] < stop]

    def compose(self) -> None:
        rows = []
        for number in self.unsent():
            if not rows or self.choose([True, False]):
                rows.append(self.next_row(number))
                self.sent[number] += rows[-1].num_tokens
        self.frames.append(frame := forward(*rows))
        self.receive(frame)

    def next_row(self, number: int) -> Row:
        position, left = self.sent[number], self.prompt_tokens[number] - self.sent[number]
        count = self.choose(range(1, left + 1)) if left > 0 else 1
        flags = PICK if count >= left else 0
        return Row(
            number, position, count, flags | (FOLLOWS if position >= self.num_known[number] else 0)
        )

    def receive(self, frame: Frame) -> None:
        self.received.append(frame)
        self.check(self.machine.handle(Received(frame)))

    def repeat(self) -> None:
        """Something that came already comes again, of sequences that are all still there."""
        again = [f for f in self.received if self.released.isdisjoint(r.sequence for r in f.rows)]
        if again:
            frame = self.choose(again)
            self.receive(Frame(
                kind=frame.kind, plan_version=VERSION, rows=frame.rows, tensors=frame.tensors
            ))  # fmt: skip

    def finish(self) -> None:
        assert self.computing is not None
        frame, self.computing = self.computing, None
        for row in frame.rows:
            self.computed[row.sequence] += row.num_tokens
        if self.is_alone:
            self.note(frame)
        else:
            self.to_pick.append(frame)
        self.check(self.machine.handle(Computed(frame, picks(*frame.rows).tensors)))

    def pick(self) -> None:
        frame = self.to_pick.popleft()
        self.note(frame)
        if any(row.flags & PICK for row in frame.rows):
            self.receive(picks(*frame.rows))

    def note(self, frame: Frame) -> None:
        """The coordinator is told as well."""
        for row in frame.rows:
            if row.flags & PICK:
                self.num_known[row.sequence] = row.position + row.num_tokens + 1

    def release(self) -> None:
        """Those of which all is computed: their last picks may still be on their way."""
        for number, stop in self.stop.items():
            if self.computed[number] == stop and number not in self.released:
                self.released.add(number)
                self.machine.handle(Released((number,)))

    def check(self, actions: list[Action]) -> None:
        for action in actions:
            assert not isinstance(action, Refuse)
            if isinstance(action, Compute):
                assert self.computing is None
                self.check_compute(action)
            elif isinstance(action, Consume):
                assert action.frame is not self.computing
                self.consumed[id(action.frame)] += 1

    def check_compute(self, action: Compute) -> None:
        self.computing = action.frame
        self.num_computed[id(action.frame)] += 1
        ids = action.frame.tensors[0].tolist()
        for index, token in action.picked:
            assert ids[index] == 0, "that token was known"
            ids[index] = token
        for row in action.frame.rows:
            assert row.position == self.computed[row.sequence], "it overtook one"
            stop = row.position + row.num_tokens
            expected = [token_at(row.sequence, p) for p in range(row.position, stop)]
            assert [ids.pop(0) for _ in expected] == expected

    def run(self) -> None:
        while self.unsent() or self.computing or self.to_pick:
            choices = [self.compose] if self.unsent() else []
            choices += [self.finish] * 2 if self.computing else []
            choices += [self.pick] * 2 if self.to_pick else []
            self.choose([*choices, self.repeat, self.release])()


@given(seed=st.integers(0, 2**32), is_alone=st.booleans())
@settings(max_examples=300, deadline=None)
def test_however_frames_and_picks_meet_each_frame_is_computed_once_with_its_tokens(
    seed: int, is_alone: bool
) -> None:
    course = Course(seed, is_alone=is_alone)
    course.run()
    assert [course.num_computed[id(frame)] for frame in course.frames] == [1] * len(course.frames)
    assert len(course.num_computed) == len(course.frames)
    assert [course.consumed[id(frame)] for frame in course.received] == [1] * len(course.received)
    course.release()
    assert not course.machine._picked._tokens
    assert not len(course.machine._backlog)
    assert not course.machine.has_sequences


def test_a_part_says_which_step_it_holds_and_whether_that_lacks_picks() -> None:
    machine = serving()
    assert (machine.oldest_step, machine.waits_for_picks) == (0, False)
    machine.handle(Received(prompt := msgspec.structs.replace(forward(ASKS), step=4)))
    machine.handle(Received(msgspec.structs.replace(forward(FOLLOWER), step=5)))
    assert (machine.oldest_step, machine.waits_for_picks) == (4, False)
    machine.handle(Computed(prompt, ()))
    assert (machine.oldest_step, machine.waits_for_picks) == (5, True)
    machine.handle(Received(picks(ASKS)))
    assert (machine.oldest_step, machine.waits_for_picks) == (5, False)
