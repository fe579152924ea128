from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.distributor.pipeline import split_streams
from partwise.engine.scheduler import Limits, Microbatch, Pick, Scheduler
from partwise.engine.sequence import FinishReason, Request, Sequence
from partwise.errors import FrameError, PromptError
from partwise.remote.frame import Row, RowFlag

STOP_ID = 999


def request(prompt_tokens: int, max_tokens: int = 5, first: int = 0) -> Request:
    ids = tuple(range(first, first + prompt_tokens))
    return Request(prompt_ids=ids, max_tokens=max_tokens, stop_ids=frozenset({STOP_ID}))


def picked_id(sequence: int, position: int) -> int:
    """The token that the imagined model picks after ``position``."""
    return 1000 + (sequence * 31 + position * 7) % 5000


class World:
    """A scheduler and an imagined model, checked at every step.

    What is sent is recorded per sequence; picks follow from sequence and position, so that a
    token that is sent twice, out of order or to another sequence is seen. Of a row that follows
    what is recorded is the token that the first part will fill in.
    """

    def __init__(self, limits: Limits, stops: dict[int, int]) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits)
        self.stops = stops  # sequence -> the position after which the model picks the stop id
        self.sequences: dict[int, Sequence] = {}
        self.requests: dict[int, Request] = {}
        self.sent: dict[int, list[int]] = defaultdict(list)
        self.chunks: dict[int, list[int]] = defaultdict(list)
        self.generated: dict[int, list[int]] = defaultdict(list)
        self.reasons: dict[int, FinishReason] = {}
        self.cancelled: set[int] = set()
        self.idle: list[int] = []
        self.in_flight: dict[int, Microbatch] = {}
        self.num_asked: dict[int, int] = defaultdict(int)
        self.ready_since: dict[int, int] = {}  # sequence -> completions until its last pick
        self.longest_wait = 0  # of a sequence with a known next token, in completions
        self.num_completed = 0
        self.num_prompt: dict[int, int] = {}  # tokens that are sent as a prompt
        self.last_step = self.restarted_at = 0

    def add(self, number: int, request: Request) -> None:
        self.requests[number] = request
        self.num_prompt[number] = len(request.prompt_ids)
        self.sequences[number] = self.scheduler.add(number, request)

    def send(self) -> bool:
        num_decoding = sum(self.is_decoding(number) for number in self.sequences)
        microbatch = self.scheduler.next_microbatch()
        if microbatch is None:
            return False
        assert microbatch.number not in self.in_flight
        assert microbatch.step == self.last_step + 1
        self.last_step = microbatch.step
        self.check_slot(microbatch)
        self.in_flight[microbatch.number] = microbatch
        self.check_share(microbatch, num_decoding)
        tokens = list(microbatch.tokens)
        for row in microbatch.rows:
            new = [tokens.pop(0) for _ in range(row.num_tokens)]
            sent = self.sent[row.sequence]
            assert row.position == len(sent)
            if row.flags & RowFlag.FOLLOWS:
                assert new == [0]
                new = [self.pick(row.sequence, row.position - 1)]
                self.check_follows(microbatch, row)
            sent.extend(new)
            self.check_row(row.sequence, row.flags)
            self.stop_waiting(row.sequence)
            is_prompt = row.position < self.num_prompt[row.sequence]
            assert bool(row.flags & RowFlag.PROMPT) == is_prompt
            if is_prompt:
                self.chunks[row.sequence].append(row.num_tokens)
        assert not tokens
        return True

    def send_all(self) -> None:
        while self.send():
            pass

    def is_ahead(self, microbatch: Microbatch) -> bool:
        """Whether it waits for the slot of another one."""
        return microbatch.after in self.in_flight

    def check_slot(self, microbatch: Microbatch) -> None:
        """It goes to a free slot, or is the only one behind one that is not ahead itself."""
        holders = [m.number for m in self.in_flight.values() if not self.is_ahead(m)]
        if microbatch.after is None:
            assert len(holders) < self.limits.max_in_flight
        else:
            assert microbatch.after in holders
            assert microbatch.after not in [m.after for m in self.in_flight.values()]

    def check_follows(self, microbatch: Microbatch, row: Row) -> None:
        """The pick that ``row`` goes on with is asked for right before it, in its slot."""
        assert microbatch.after is not None
        before = self.in_flight[microbatch.after].rows
        assert [r.position + r.num_tokens for r in before if r.sequence == row.sequence] == [
            row.position
        ]

    def stop_waiting(self, number: int) -> None:
        since = self.ready_since.pop(number, self.num_completed)
        self.longest_wait = max(self.longest_wait, self.num_completed - since)

    def is_decoding(self, number: int) -> bool:
        return len(self.sent[number]) >= self.num_prompt[number] and number not in self.idle

    def check_row(self, number: int, flags: int) -> None:
        prompt = list(self.requests[number].prompt_ids)
        sent, generated = self.sent[number], self.generated[number]
        known = prompt + generated
        assert sent[: len(known)] == known[: len(sent)]
        assert len(sent) == len(known) + 1 if flags & RowFlag.FOLLOWS else len(sent) <= len(known)
        assert bool(flags & RowFlag.PICK) == (len(sent) >= len(known))
        self.num_asked[number] += bool(flags & RowFlag.PICK)
        assert self.num_asked[number] <= self.requests[number].max_tokens
        assert number not in self.cancelled
        assert number not in self.reasons

    def check_share(self, microbatch: Microbatch, num_decoding: int) -> None:
        limits = self.limits
        rows = microbatch.rows
        decoding = [r for r in rows if r.position >= self.num_prompt[r.sequence]]
        assert len(decoding) <= -(-num_decoding // limits.max_in_flight)
        assert len(rows) <= max(limits.max_rows, 1)
        # Decode rows are there before prompts fill up what is left.
        # One prompt token goes in any case, or prompts could starve.
        assert len(microbatch.tokens) <= max(limits.chunk_tokens, len(decoding) + 1)
        assert len({row.sequence for row in rows}) == len(rows)
        if limits.is_deterministic:
            assert len(rows) == 1

    def completable(self) -> list[int]:
        """Those whose tokens are all known: in whatever order these come back."""
        return [
            m.number
            for m in self.in_flight.values()
            if not (self.is_ahead(m) and any(r.flags & RowFlag.FOLLOWS for r in m.rows))
        ]

    def complete(self, number: int) -> None:
        microbatch = self.in_flight.pop(number)
        self.num_completed += 1
        asking = [row for row in microbatch.rows if row.flags & RowFlag.PICK]
        ids = [self.pick(row.sequence, row.position + row.num_tokens - 1) for row in asking]
        picks = self.scheduler.complete(number, ids)
        ended = self.cancelled | set(self.reasons)
        expected = [row.sequence for row in asking if row.sequence not in ended]
        assert [pick.sequence.number for pick in picks] == expected
        for pick in picks:
            assert ids[pick.index] == pick.token_id
            self.accept(pick)
        self.take_idle()

    def pick(self, number: int, position: int) -> int:
        return STOP_ID if self.stops.get(number) == position else picked_id(number, position)

    def accept(self, pick: Pick) -> None:
        number = pick.sequence.number
        assert number not in self.reasons
        if not pick.is_stop:
            self.generated[number].append(pick.token_id)
        if pick.finish_reason is not None:
            self.reasons[number] = pick.finish_reason
        elif len(self.sent[number]) < len(self.requests[number].prompt_ids) + len(
            self.generated[number]
        ):
            self.ready_since[number] = self.num_completed

    def cancel(self, number: int) -> None:
        if number not in self.reasons:
            self.cancelled.add(number)
            self.ready_since.pop(number, None)
            self.scheduler.finish(self.sequences[number])
            self.take_idle()

    def take_idle(self) -> None:
        for sequence in self.scheduler.take_idle():
            assert sequence.number not in self.idle, "returned twice"
            assert sequence.number in self.reasons or sequence.number in self.cancelled
            under_way = [r.sequence for m in self.in_flight.values() for r in m.rows]
            assert sequence.number not in under_way
            self.idle.append(sequence.number)

    def replan(self, limits: Limits, choose: Callable[[list[int]], int]) -> None:
        """All that is in flight comes back; then parts that know nothing go on, from a step on that
        is later than that of the last time."""
        step = self.scheduler.hold()
        while self.in_flight:
            assert self.scheduler.next_microbatch() is None
            self.complete(choose(self.completable()))
        assert self.scheduler.next_microbatch() is None
        assert step > max(self.last_step, self.restarted_at)
        self.last_step, self.restarted_at = step - 1, step
        self.limits = limits
        self.scheduler.restart(limits)
        for number in self.requests:
            if number not in self.idle and self.sent[number]:
                self.num_prompt[number] = len(self.requests[number].prompt_ids) + len(
                    self.generated[number]
                )
                self.num_asked[number] = len(self.generated[number])
                self.sent[number].clear()
                self.chunks[number].clear()
                self.ready_since.pop(number, None)

    def check_end(self) -> None:
        assert not self.in_flight
        assert not self.scheduler.in_flight
        assert not self.scheduler._running
        assert not self.scheduler._slots
        assert not self.ready_since
        for number, request in self.requests.items():
            if number in self.cancelled:
                assert number in self.idle or not self.sent[number]
                continue
            assert number in self.idle
            stop = self.stops.get(number)
            length = len(request.prompt_ids)
            room = request.max_tokens if stop is None else stop - length + 1
            count = min(request.max_tokens, room) if room >= 0 else request.max_tokens
            assert len(self.generated[number]) == count
            is_stop = room >= 0 and room < request.max_tokens
            assert self.reasons[number] == (FinishReason.STOP if is_stop else FinishReason.LENGTH)


LIMITS = st.builds(
    Limits,
    max_in_flight=st.integers(1, 5),
    chunk_tokens=st.integers(1, 16),
    max_rows=st.integers(1, 6),
    max_sequences=st.integers(1, 8),
    is_deterministic=st.booleans(),
)
SEEDS = st.integers(0, 2**32)  # of choices too many to draw one by one
REQUESTS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8)), min_size=1, max_size=10)


@given(
    limits=LIMITS,
    requests=REQUESTS,
    stops=st.dictionaries(st.integers(0, 9), st.integers(0, 45), max_size=4),
    seed=SEEDS,
)
@settings(max_examples=200, deadline=None)
def test_each_token_is_sent_once_in_order_whatever_comes_back_when(
    limits: Limits, requests: list, stops: dict[int, int], seed: int
) -> None:
    choose = random.Random(seed).choice
    stops = {n: max(p, requests[n][0] - 1) for n, p in stops.items() if n < len(requests)}
    world = World(limits, stops)
    todo = list(enumerate(requests))
    for _ in range(5000):
        choices = ["send"]
        choices += ["add"] if todo else []
        choices += ["complete"] * 2 if world.in_flight else []
        choices += ["cancel"] if world.requests else []
        action = choose(choices)
        if action == "add":
            number, (prompt_tokens, max_tokens) = todo.pop(0)
            world.add(number, request(prompt_tokens, max_tokens, first=number * 50))
        elif action == "complete":
            world.complete(choose(world.completable()))
        elif action == "cancel":
            if choose(range(10)) == 0:
                world.cancel(choose(list(world.requests)))
        elif not world.send() and not world.in_flight and not todo:
            break
    world.check_end()


@given(
    limits=st.lists(LIMITS, min_size=2, max_size=4),
    requests=REQUESTS,
    stops=st.dictionaries(st.integers(0, 9), st.integers(0, 45), max_size=4),
    seed=SEEDS,
)
@settings(max_examples=200, deadline=None)
def test_what_runs_is_sent_anew_after_a_restart_and_goes_on_where_it_stood(
    limits: list[Limits], requests: list, stops: dict[int, int], seed: int
) -> None:
    rng = random.Random(seed)
    stops = {n: max(p, requests[n][0] - 1) for n, p in stops.items() if n < len(requests)}
    world = World(limits[0], stops)
    todo, others = list(enumerate(requests)), limits[1:]
    for _ in range(5000):
        choices = ["send"]
        choices += ["add"] if todo else []
        choices += ["complete"] * 2 if world.in_flight else []
        action = rng.choice(choices)
        if others and rng.random() < 0.05:
            world.replan(others.pop(), rng.choice)
        elif rng.random() < 0.02 and world.requests:
            world.cancel(rng.choice(list(world.requests)))
        elif action == "add":
            number, (prompt_tokens, max_tokens) = todo.pop(0)
            world.add(number, request(prompt_tokens, max_tokens, first=number * 50))
        elif action == "complete":
            world.complete(rng.choice(world.completable()))
        elif not world.send() and not world.in_flight and not todo:
            break
    world.check_end()


@given(
    num_sequences=st.integers(1, 12),
    slots=st.integers(1, 5),
    seed=SEEDS,
)
@settings(max_examples=100, deadline=None)
def test_shares_even_out_over_as_many_slots_as_they_fill(
    num_sequences: int, slots: int, seed: int
) -> None:
    choose = random.Random(seed).choice
    world = World(Limits(max_in_flight=slots), {})
    for number in range(num_sequences):
        world.add(number, request(2, 1000))
    for _ in range(24 * slots):
        world.send_all()
        world.complete(choose(world.completable()))
    world.send_all()
    holders = [m for m in world.in_flight.values() if not world.is_ahead(m)]
    sizes = [len(microbatch.rows) for microbatch in holders]
    assert sum(sizes) == num_sequences
    assert (max(sizes), len(sizes)) == split_streams(num_sequences, slots)
    ahead = {m.after: m for m in world.in_flight.values() if world.is_ahead(m)}
    for microbatch in holders:
        assert [r.sequence for r in ahead[microbatch.number].rows] == [
            r.sequence for r in microbatch.rows
        ]


@given(
    limits=LIMITS,
    requests=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=16),
    seed=SEEDS,
)
@settings(max_examples=200, deadline=None)
def test_no_sequence_starves_however_many_take_turns(
    limits: Limits, requests: list, seed: int
) -> None:
    choose = random.Random(seed).choice
    world = World(limits, {})
    todo = list(enumerate(requests))
    while todo or world.in_flight:
        if todo and choose([True, False]):
            number, (prompt_tokens, max_tokens) = todo.pop(0)
            world.add(number, request(prompt_tokens, max_tokens, first=number * 50))
        world.send_all()
        if world.in_flight:
            world.complete(min(world.completable()))
            world.send_all()
    world.check_end()
    rows = 1 if limits.is_deterministic else limits.max_rows
    turns = -(-min(len(requests), limits.max_sequences) // rows)
    assert world.longest_wait <= turns + 2 * limits.max_in_flight


@given(slots=st.integers(1, 4), share=st.integers(0, 5), seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_a_prompt_that_joins_waits_for_one_microbatch_at_most(
    slots: int, share: int, seed: int
) -> None:
    choose = random.Random(seed).choice
    world = World(Limits(max_in_flight=slots, max_rows=6), {})
    for number in range(slots * share):
        world.add(number, request(2, 1000))
    for _ in range(choose(range(1, 20))):
        world.send_all()
        if world.in_flight:
            world.complete(choose(world.completable()))
    world.send_all()
    world.add(99, request(2))
    if not world.send():
        world.complete(choose(world.completable()))
        assert world.send()
    assert world.sent[99] == [0, 1]


def test_sequences_of_a_full_slot_take_turns() -> None:
    world = World(Limits(max_in_flight=1, max_rows=2), {})
    world.add(0, request(1, 100))
    world.add(1, request(1, 100))
    world.send_all()
    for number in (2, 3, 4):
        # As if they had come while there was room: they decode beside the first two.
        world.add(number, request(1, 100))
        sequence = world.sequences[number]
        world.scheduler._waiting.remove(sequence)
        world.scheduler._running[number] = sequence
        world.sent[number].append(0)
        world.generated[number].append(picked_id(number, 0))
        sequence.num_sent = sequence.num_asked = 1
        sequence.accept(picked_id(number, 0))
        world.scheduler._ready.append(sequence)
        world.num_asked[number] = 1
    turns = []
    for _ in range(12):
        number = min(world.completable())
        turns += [row.sequence for row in world.in_flight[number].rows]
        world.complete(number)
        world.send_all()
    assert all(turns[4:].count(number) in (3, 4, 5) for number in range(5))


def test_chunks_of_one_prompt_follow_each_other_without_waiting() -> None:
    world = World(Limits(max_in_flight=3, chunk_tokens=10), {})
    world.add(0, request(25))
    assert [world.send() for _ in range(5)] == [True, True, True, True, False]
    assert world.chunks[0] == [10, 10, 5]
    ahead = world.in_flight[3]
    assert (ahead.after, ahead.tokens) == (2, (0,)), "the first token follows the last chunk"


def test_the_next_step_is_composed_while_one_is_computed_and_no_more() -> None:
    world = World(Limits(max_in_flight=2), {})
    world.add(0, request(3, 3))
    world.send_all()
    assert list(world.in_flight) == [0, 1]
    world.complete(0)
    world.send_all()
    assert list(world.in_flight) == [1, 2]
    world.complete(1)
    assert not world.send(), "the third token is the last: nothing follows it"
    world.complete(2)
    world.check_end()


def test_a_sequence_that_meets_a_stop_token_is_computed_once_in_vain() -> None:
    world = World(Limits(max_in_flight=1), {0: 3})
    world.add(0, request(3, 100))
    for _ in range(2):
        world.send_all()
        world.complete(min(world.in_flight))
    assert world.reasons == {0: FinishReason.STOP}
    assert not world.idle, "its last row is still under way"
    assert not world.send()
    world.complete(min(world.in_flight))
    assert world.idle == [0]
    world.check_end()


@given(prompts=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=SEEDS)
@settings(deadline=None)
def test_deterministic_chunks_have_fixed_boundaries_whatever_runs_beside(
    prompts: list[int], seed: int
) -> None:
    choose = random.Random(seed).choice
    limits = Limits(max_in_flight=3, chunk_tokens=16, is_deterministic=True)
    world = World(limits, {})
    for number, length in enumerate(prompts):
        world.add(number, request(length, 4))
    while world.send() or world.in_flight:
        if world.in_flight and choose([True, False]):
            world.complete(choose(world.completable()))
    for number, length in enumerate(prompts):
        rest = [length % 16] if length % 16 else []
        assert world.chunks[number] == [16] * (length // 16) + rest


def test_waiting_sequences_start_when_there_is_room() -> None:
    world = World(Limits(max_in_flight=4, max_sequences=2), {})
    for number in range(3):
        world.add(number, request(1, 1))
    while world.send():
        pass
    assert {r.sequence for m in world.in_flight.values() for r in m.rows} == {0, 1}
    world.complete(next(iter(world.in_flight)))
    assert world.send()
    assert sorted(world.sent) == [0, 1, 2]


def test_a_sequence_cancelled_before_it_ran_is_never_sent_nor_idle() -> None:
    scheduler = Scheduler(Limits(max_in_flight=1))
    sequence = scheduler.add(0, request(3))
    scheduler.finish(sequence)
    assert scheduler.take_idle() == []
    assert scheduler.next_microbatch() is None
    assert not scheduler._waiting


def test_a_sequence_cancelled_in_flight_is_idle_only_when_it_came_back() -> None:
    scheduler = Scheduler(Limits(max_in_flight=2, chunk_tokens=2))
    sequence = scheduler.add(0, request(4))
    one, two = scheduler.next_microbatch(), scheduler.next_microbatch()
    assert one is not None
    assert two is not None
    scheduler.finish(sequence)
    assert scheduler.take_idle() == []
    assert scheduler.complete(one.number, []) == []
    assert scheduler.take_idle() == []
    assert scheduler.complete(two.number, [5]) == [], "a cancelled sequence takes no token"
    assert scheduler.take_idle() == [sequence]
    assert scheduler.take_idle() == []


def test_a_result_that_came_before_is_ignored() -> None:
    scheduler = Scheduler(Limits(max_in_flight=1))
    scheduler.add(0, request(1))
    microbatch = scheduler.next_microbatch()
    assert microbatch is not None
    assert len(scheduler.complete(microbatch.number, [5])) == 1
    assert scheduler.complete(microbatch.number, [5]) == []


@pytest.mark.parametrize("ids", [[], [1, 2]])
def test_a_wrong_number_of_ids_is_an_error(ids: list[int]) -> None:
    scheduler = Scheduler(Limits(max_in_flight=1))
    scheduler.add(0, request(1))
    microbatch = scheduler.next_microbatch()
    assert microbatch is not None
    with pytest.raises(FrameError, match=f"{len(ids)} ids for 1 sequences"):
        scheduler.complete(microbatch.number, ids)


def test_a_request_without_a_prompt_or_tokens_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        Request(prompt_ids=(), max_tokens=1)
    with pytest.raises(PromptError, match="max_tokens is 0"):
        Request(prompt_ids=(1,), max_tokens=0)
