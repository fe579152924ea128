"""Which rows run together next: pure, no IO and no clock.

A pipeline of P stages is busy only with P microbatches in flight, so the running sequences
are spread over that many: each decode microbatch takes its share of them, first come first
served, and shares even out by themselves as microbatches return. No more microbatches are used
than those shares fill: four sequences over three stages go as 2 + 2, for 2 + 1 + 1 takes as long
and reads every weight once more (`Scheduler._split`). Prompts go in chunks that
fill a microbatch up to a number of tokens; chunks of one prompt follow each other through
the stages without waiting.

Each slot is composed one step ahead, so that a part never waits for the engine: the rows of
the next microbatch go on with tokens that are still to be picked (`RowFlag.FOLLOWS`), which
the last part hands to the first itself. A sequence that ends is computed once in vain then.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from partwise.distributor.pipeline import split_streams
from partwise.engine.sequence import FinishReason, Request, Sequence
from partwise.errors import FrameError, UsageError
from partwise.remote.frame import Row, RowFlag

PREFILL_CHUNK_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be under way at once.

    ``max_in_flight`` microbatches, and as many that were composed ahead.
    ``is_deterministic``: one row a microbatch, so that every sequence is computed by the same
    calls whatever runs beside it.
    """

    max_in_flight: int
    chunk_tokens: int = PREFILL_CHUNK_TOKENS
    max_rows: int = 64
    max_sequences: int = 256
    max_waiting: int = 4096
    is_deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("max_in_flight", "chunk_tokens", "max_rows", "max_sequences", "max_waiting"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"{name} is {value}: at least 1 is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Rows to compute together: ``tokens`` of all of them, one after the other.

    ``after`` is the microbatch in whose slot this one waits until that one returned, None where
    the slot was free. Its picks are the tokens of rows that follow; ``tokens`` has 0 for them.
    """

    number: int
    step: int
    rows: tuple[Row, ...]
    tokens: tuple[int, ...]
    after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What the last part picked for one sequence. ``index`` counts the picks of its
    microbatch; ``is_stop`` says that the token ends the sequence and is not part of it."""

    sequence: Sequence
    index: int
    token_id: int
    finish_reason: FinishReason | None

    @property
    def is_stop(self) -> bool:
        return self.finish_reason is FinishReason.STOP


class Scheduler:
    """The sequences that run or wait, and the microbatches in flight."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.in_flight: dict[int, Microbatch] = {}
        self._running: dict[int, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._ready: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._slots: dict[int, int | None] = {}  # microbatch -> the one composed ahead in its slot
        self._next_number = 0
        self._next_step = 1
        self._restarted_at = 0
        self._is_held = False

    @property
    def last_step(self) -> int:
        """The number of the last step that was composed; 0 before the first."""
        return self._next_step - 1

    def hold(self) -> int:
        """Compose nothing until `restart`; the step at which that begins: a later one each time."""
        self._is_held = True
        self._next_step = max(self._next_step, self._restarted_at + 1)
        return self._next_step

    def restart(self, limits: Limits) -> None:
        """Parts that know of no sequence compute the next step: those that run are prefilled anew,
        with all their tokens. Nothing may be in flight."""
        assert not self.in_flight, "a step is under way"
        self.limits = limits
        self._restarted_at, self._is_held = self._next_step, False
        self._slots.clear()
        self._ready.clear()
        self._prefilling = deque(s for s in self._running.values() if not s.is_finished)
        for sequence in self._prefilling:
            sequence.restart()

    def add(self, number: int, request: Request) -> Sequence:
        """Let a request run as soon as there is room."""
        sequence = Sequence(number=number, request=request, tokens=list(request.prompt_ids))
        self._waiting.append(sequence)
        return sequence

    def finish(self, sequence: Sequence) -> None:
        """Schedule no more of ``sequence``; what is in flight still returns."""
        sequence.is_finished = True

    def take_idle(self) -> list[Sequence]:
        """Finished sequences of which nothing is in flight any more, forgotten here."""
        idle = [s for s in self._running.values() if s.is_finished and not s.num_in_flight]
        for sequence in idle:
            del self._running[sequence.number]
        never_ran = [s for s in self._waiting if s.is_finished]
        for sequence in never_ran:
            self._waiting.remove(sequence)
        return idle

    def next_microbatch(self) -> Microbatch | None:
        """The next rows to send to the first part, if any may go now."""
        if self._is_held:
            return None
        while self._waiting and len(self._running) < self.limits.max_sequences:
            sequence = self._waiting.popleft()
            self._running[sequence.number] = sequence
            self._prefilling.append(sequence)
        if len(self._slots) < self.limits.max_in_flight and (free := self._compose(None)):
            return free
        alone = [number for number, ahead in self._slots.items() if ahead is None]
        return next((found for number in alone if (found := self._compose(number))), None)

    def _compose(self, after: int | None) -> Microbatch | None:
        """The next rows for a free slot, or for that of ``after``."""
        rows: list[Row] = []
        tokens: list[int] = []
        self._take_decode(after, rows, tokens)
        if not (rows and self.limits.is_deterministic):
            self._take_prefill(rows, tokens)
        if not rows:
            return None
        microbatch = Microbatch(
            number=self._next_number,
            step=self._next_step,
            rows=tuple(rows),
            tokens=tuple(tokens),
            after=after,
        )
        self._next_number += 1
        self._next_step += 1
        self.in_flight[microbatch.number] = microbatch
        self._slots[microbatch.number if after is None else after] = (
            None if after is None else microbatch.number
        )
        return microbatch

    def _take_decode(self, after: int | None, rows: list[Row], tokens: list[int]) -> None:
        """Its share of the decoding sequences, so that each slot in flight gets as many: those of
        the microbatch before it first, which is all they may be computed after."""
        share, num_slots = self._split()
        num_taken = sum(map(self._has_decoding, self._slots))
        if after is None:
            if num_taken >= num_slots:
                return
        elif num_slots <= self.limits.max_in_flight:  # else they take turns
            following = [r.sequence for r in self.in_flight[after].rows if r.flags & RowFlag.PICK]
            if len(following) < share and num_taken > num_slots:
                return  # they go on in the others' slots
            for number in following[:share]:
                self._put_following(self._running[number], rows, tokens)
        while self._ready and len(rows) < share:
            sequence = self._ready.popleft()
            if not sequence.is_finished:
                self._put(sequence, 1, rows, tokens)

    def _split(self) -> tuple[int, int]:
        """The rows of a decode microbatch, and how many such hold all decoding sequences."""
        limits = self.limits
        num_decoding = sum(not s.is_prefilling for s in self._running.values())
        if not num_decoding:
            return 1, 0
        share, _ = split_streams(num_decoding, limits.max_in_flight)
        share = min(share, 1 if limits.is_deterministic else limits.max_rows)
        return share, -(-num_decoding // share)

    def _has_decoding(self, slot: int) -> bool:
        """Whether the last microbatch of a slot picks tokens."""
        last = self.in_flight[slot if (ahead := self._slots[slot]) is None else ahead]
        return any(row.flags & RowFlag.PICK for row in last.rows)

    def _put_following(self, sequence: Sequence, rows: list[Row], tokens: list[int]) -> None:
        """The next token of ``sequence``, if there will be one."""
        if not sequence.is_finished and sequence.num_asked < sequence.request.max_tokens:
            self._put(sequence, 1, rows, tokens)

    def _take_prefill(self, rows: list[Row], tokens: list[int]) -> None:
        """Chunks of prompts, up to the number of tokens a microbatch may have."""
        limits = self.limits
        has_prompt = False
        while self._prefilling and len(rows) < limits.max_rows:
            # One token at least, or many decoding sequences would starve every prompt.
            room = max(limits.chunk_tokens - len(tokens), 0 if has_prompt else 1)
            sequence = self._prefilling[0]
            if sequence.is_finished:
                self._prefilling.popleft()
                continue
            left = sequence.num_prompt - sequence.num_sent
            count = min(left, room)
            if count <= 0:
                return
            self._put(sequence, count, rows, tokens)
            has_prompt = True
            if count == left:
                self._prefilling.popleft()
            if limits.is_deterministic:
                return

    def _put(self, sequence: Sequence, count: int, rows: list[Row], tokens: list[int]) -> None:
        position = sequence.num_sent
        new = sequence.tokens[position : position + count]
        asks = position + count >= len(sequence.tokens)
        flags = sequence.request.flags if asks else RowFlag.NONE
        if sequence.is_prefilling:
            flags |= RowFlag.PROMPT
        if not new:
            new, flags = [0], flags | RowFlag.FOLLOWS
        rows.append(Row(sequence.number, position, count, int(flags)))
        tokens.extend(new)
        sequence.num_sent += count
        sequence.num_in_flight += 1
        sequence.num_asked += asks

    def complete(self, number: int, ids: list[int]) -> list[Pick]:
        """Take the picks of a microbatch that came back; empty for one that came before.

        Raises:
            FrameError: the last part returned another number of ids than was asked for.
        """
        microbatch = self.in_flight.pop(number, None)
        if microbatch is None:
            return []
        asking = [row for row in microbatch.rows if row.flags & RowFlag.PICK]
        if len(asking) != len(ids):
            raise FrameError(
                f"step {microbatch.step} returned {len(ids)} ids for {len(asking)} sequences"
            )
        self._free(microbatch)
        for row in microbatch.rows:
            self._running[row.sequence].num_in_flight -= 1
        picks = []
        for index, (row, token_id) in enumerate(zip(asking, ids, strict=True)):
            sequence = self._running[row.sequence]
            if sequence.is_finished:
                continue
            reason = sequence.accept(token_id)
            picks.append(
                Pick(sequence=sequence, index=index, token_id=token_id, finish_reason=reason)
            )
            if reason is not None:
                self.finish(sequence)
            elif sequence.num_asked == len(sequence.generated):  # else it went on already
                self._ready.append(sequence)
        return picks

    def _free(self, microbatch: Microbatch) -> None:
        """``microbatch`` came back: its slot goes to the one behind it."""
        if microbatch.number in self._slots:
            ahead = self._slots.pop(microbatch.number)
            if ahead is not None:
                self._slots[ahead] = None
        elif microbatch.after is not None:  # it came back before the one before it
            self._slots[microbatch.after] = None
