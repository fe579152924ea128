"""What a part does about each event: a pure state machine, without IO, clock or tensors' values.

Events go into `PartMachine.handle`, actions come out in the order in which they are to be
done. The loop in `server.py` does them and hands their outcomes back as events.

    IDLE --Assigned--> LOADING --LoadDone--> LOADED --NextReached--> SERVING
      ^                   |                     |                       |
      +---- Unassigned ---+----- (from any) ----+-----------------------+
    any but IDLE --Broken--> FAILED --Unassigned--> IDLE
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

import msgspec
import numpy as np

from partwise.part.picked import PickedTokens
from partwise.remote.codecs import Packed
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.layout import Array
from partwise.remote.messages import Ping, Pong

MAX_WAITING_FRAMES = 1024

_PICK, _FOLLOWS = int(RowFlag.PICK), int(RowFlag.FOLLOWS)


class Phase(StrEnum):
    """Where a server stands with its assignment."""

    IDLE = "idle"
    LOADING = "loading"
    LOADED = "loaded"
    SERVING = "serving"
    FAILED = "failed"


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """Event: the coordinator gave this server a part of the plan.

    Its frames carry one tensor of shape (tokens, *input_widths): ids for the first part. It
    travels as one of ``input_codecs`` says. The last part also tells the first what it picked:
    ids below ``vocab_size``.
    """

    part: str
    plan_version: int
    is_first: bool
    is_last: bool
    input_dtype: np.dtype[np.generic]
    input_widths: tuple[int, ...]
    input_codecs: frozenset[str] = frozenset({"fp32"})
    vocab_size: int = 1 << 31


class LoadDone(msgspec.Struct, frozen=True):
    """Event: the weights are in memory."""


class NextReached(msgspec.Struct, frozen=True):
    """Event: the link to the next part stands; the first one comes after the last, and a part
    alone needs none."""


class Received(msgspec.Struct, frozen=True):
    """Event: a data frame came in."""

    frame: Frame


class Computed(msgspec.Struct, frozen=True):
    """Event: the runner finished a frame."""

    frame: Frame
    outputs: tuple[Array, ...]


class Released(msgspec.Struct, frozen=True):
    """Event: the coordinator is done with these sequences."""

    sequences: tuple[int, ...]


class Broken(msgspec.Struct, frozen=True):
    """Event: the assignment cannot go on."""


class Unassigned(msgspec.Struct, frozen=True):
    """Event: the coordinator went away."""


Event = Assigned | LoadDone | NextReached | Received | Computed | Released | Broken | Unassigned


class Load(msgspec.Struct, frozen=True):
    """Action: load the assigned part."""


class Compute(msgspec.Struct, frozen=True):
    """Action: run the frame through the runner, then report `Computed`. ``picked`` are tokens
    that it lacks: (index, token)."""

    frame: Frame
    picked: tuple[tuple[int, int], ...] = ()


class Push(msgspec.Struct, frozen=True):
    """Action: send the frame to the next part, or the result to the coordinator."""

    frame: Frame
    to_coordinator: bool


class Consume(msgspec.Struct, frozen=True):
    """Action: the received frame is done with: its buffer goes back to its link."""

    frame: Frame


class Refuse(msgspec.Struct, frozen=True):
    """Action: tell the coordinator that a frame was not taken, and why."""

    frame: Frame
    reason: str


class Forget(msgspec.Struct, frozen=True):
    """Action: free the KV cache of these sequences."""

    sequences: tuple[int, ...]


class Reset(msgspec.Struct, frozen=True):
    """Action: drop the runner and every link of the assignment."""


Action = Load | Compute | Push | Consume | Refuse | Forget | Reset


class PartMachine:
    """The state of one server's assignment. Only `handle` changes it."""

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self.assignment: Assigned | None = None
        self.received_step = 0
        self.finished_step = 0
        self._positions: dict[int, int] = {}  # sequence -> its next position here
        self._waiting: deque[Frame] = deque()
        self._picked = PickedTokens()
        self._computing: Frame | None = None
        self._handlers: dict[type, Callable[..., list[Action]]] = {
            Assigned: self._assigned,
            LoadDone: self._load_done,
            NextReached: self._next_reached,
            Received: self._received,
            Computed: self._computed,
            Released: self._released,
            Broken: self._broken,
            Unassigned: self._unassigned,
        }

    def handle(self, event: Event) -> list[Action]:
        """The actions that ``event`` asks for, in order."""
        return self._handlers[type(event)](event)

    @property
    def name(self) -> str:
        """The assigned part's name, or that there is none."""
        return self.assignment.part if self.assignment else "a server without a part"

    @property
    def is_computing(self) -> bool:
        """Whether a frame is being computed, or is the next to be."""
        return self._computing is not None

    @property
    def oldest_step(self) -> int:
        """The least step that was taken and is not finished; 0: there is none."""
        frames = [self._computing] if self._computing else []
        return min((frame.step for frame in (*frames, *self._waiting)), default=0)

    @property
    def waits_for_picks(self) -> bool:
        """Whether frames wait although nothing is computed: their tokens are still to be picked."""
        return self._computing is None and bool(self._waiting)

    @property
    def has_sequences(self) -> bool:
        """Whether it holds any that is not released."""
        return bool(self._positions)

    def answer(self, ping: Ping, clock_ns: int) -> Pong:
        """Where its steps stand, at ``clock_ns`` of the server's clock."""
        return Pong(
            number=ping.number,
            sent_ns=ping.sent_ns,
            clock_ns=clock_ns,
            received_step=self.received_step,
            finished_step=self.finished_step,
            oldest_step=self.oldest_step,
            waits_for_picks=self.waits_for_picks,
        )

    def _assigned(self, event: Assigned) -> list[Action]:
        self.assignment = event
        self.phase = Phase.LOADING
        return [Load()]

    def _load_done(self, event: LoadDone) -> list[Action]:
        self.phase = Phase.LOADED
        is_alone = self._is_first and self._is_last
        return self._next_reached(NextReached()) if is_alone else []

    def _next_reached(self, event: NextReached) -> list[Action]:
        self.phase = Phase.SERVING
        return []

    @property
    def _is_first(self) -> bool:
        return self.assignment is not None and self.assignment.is_first

    @property
    def _is_last(self) -> bool:
        return self.assignment is not None and self.assignment.is_last

    def _received(self, event: Received) -> list[Action]:
        frame = event.frame
        reason = self._refusal(frame)
        if reason:
            return [Refuse(frame, reason), Consume(frame)]
        rows = frame.rows
        if frame.kind is FrameKind.RESULT:
            self._note_picks(rows, frame.tensors[0])  # type: ignore[arg-type]
            return [Consume(frame), *self._start_next()]
        num_known = sum([row.position < self._positions.get(row.sequence, 0) for row in rows])
        if num_known == len(rows):
            return [Consume(frame)]  # a duplicate
        positions = {row.sequence: self._positions.get(row.sequence, 0) for row in rows}
        for row in rows:
            if reason := self._row_refusal(row, positions[row.sequence]):
                return [Refuse(frame, reason), Consume(frame)]
            positions[row.sequence] += row.num_tokens
        self._positions.update(positions)
        self.received_step = max(self.received_step, frame.step)
        self._waiting.append(frame)
        return self._start_next()

    def _row_refusal(self, row: Row, expected: int) -> str | None:
        """Why ``row`` does not go on where its sequence stands, at position ``expected``."""
        if row.position != expected or row.num_tokens < 1:
            return (
                f"{self.name} expects position {expected} of sequence {row.sequence},"
                f" the frame has {row.num_tokens} tokens from {row.position}"
            )
        is_after_frame = expected == self._positions.get(row.sequence)
        if row.flags & _FOLLOWS and not (row.num_tokens == 1 and is_after_frame):
            return (
                f"{self.name} can wait for one picked token after an earlier frame, not for"
                f" {row.num_tokens} at position {expected} of sequence {row.sequence}"
            )
        return None

    def _refusal(self, frame: Frame) -> str | None:
        """Why ``frame`` cannot be taken now, whatever its rows."""
        if self.assignment is None or self.phase is not Phase.SERVING:
            return f"{self.name} is {self.phase}, not serving"
        if frame.plan_version != self.assignment.plan_version:
            return (
                f"{self.name} serves plan_version {self.assignment.plan_version},"
                f" the frame is of {frame.plan_version}"
            )
        if frame.kind is FrameKind.RESULT and self._is_first:
            return self._pick_refusal(frame)
        if frame.kind is not FrameKind.FORWARD or not frame.rows:
            return f"{self.name} computes forward frames with rows, not {frame.kind.name} frames"
        if len(self._waiting) >= MAX_WAITING_FRAMES:
            return f"{len(self._waiting)} frames wait at {self.name}, the limit"
        return self._tensor_refusal(frame)

    def _pick_refusal(self, frame: Frame) -> str | None:
        """Why the frame is not what was picked for its rows."""
        expected = (sum([row.flags & _PICK for row in frame.rows]),)
        found = [(tensor.dtype, tensor.shape) for tensor in frame.tensors]
        if found != [(np.dtype(np.int64), expected)]:
            return f"{self.name} expects {expected[0]} picks, the frame has {found}"
        ids: Array = frame.tensors[0]  # type: ignore[assignment]
        vocab_size = self.assignment.vocab_size if self.assignment else 0
        if wrong := [token for token in ids.tolist() if not 0 <= token < vocab_size]:
            return f"{self.name} was told of token {wrong[0]}, the vocabulary has {vocab_size}"
        for row in frame.rows:
            stop = row.position + row.num_tokens
            if stop > self._positions.get(row.sequence, stop):
                return (
                    f"{self.name} was told what is picked for position {stop} of sequence"
                    f" {row.sequence}, which stands at {self._positions[row.sequence]}"
                )
        return None

    def _tensor_refusal(self, frame: Frame) -> str | None:
        """Why the frame's tensors are not what this part computes on."""
        assert self.assignment is not None
        expected = (sum([row.num_tokens for row in frame.rows]), *self.assignment.input_widths)
        if len(frame.tensors) != 1 or frame.tensors[0].shape != expected:
            shapes = [tensor.shape for tensor in frame.tensors]
            return f"{self.name} expects one tensor of shape {expected}, the frame has {shapes}"
        if frame.tensors[0].dtype != self.assignment.input_dtype:
            dtype = frame.tensors[0].dtype
            return f"{self.name} expects {self.assignment.input_dtype}, the frame has {dtype}"
        tensor = frame.tensors[0]
        codec = tensor.codec if isinstance(tensor, Packed) else "fp32"
        if codec not in self.assignment.input_codecs:
            planned = ", ".join(sorted(self.assignment.input_codecs))
            return f"the plan sends {planned} to {self.name}, the frame has {codec}"
        return None

    def _start_next(self) -> list[Action]:
        """Compute the first waiting frame whose tokens are known, unless it would overtake one of
        the same sequence."""
        if self._computing is not None:
            return []
        passed: set[int] = set()
        for index, frame in enumerate(self._waiting):
            picked = self._picked.find(frame.rows) if self._is_first else ()
            if picked is not None and passed.isdisjoint([row.sequence for row in frame.rows]):
                del self._waiting[index]
                self._computing = frame
                return [Compute(frame, picked)]
            passed.update([row.sequence for row in frame.rows])
        return []

    def _note_picks(self, rows: tuple[Row, ...], ids: Array) -> None:
        """At the first part: these were picked. Of a released sequence nobody wants to know."""
        self._picked.note(rows, ids.tolist())
        for row in rows:
            if row.sequence not in self._positions:
                self._picked.forget(row.sequence)

    def _computed(self, event: Computed) -> list[Action]:
        frame = event.frame
        if frame is not self._computing:
            return []  # the assignment ended while it was being computed
        self._computing = None
        self.finished_step = max(self.finished_step, frame.step)
        kind = FrameKind.RESULT if self._is_last else FrameKind.FORWARD
        pushed = _answer(frame, kind, frame.rows, event.outputs)
        actions: list[Action] = [Push(pushed, self._is_last), Consume(frame)]
        if self._is_last and (asking := tuple([r for r in frame.rows if r.flags & _PICK])):
            if self._is_first:
                self._note_picks(asking, event.outputs[0])
            else:  # first of all: that part waits for it
                picks = _answer(frame, FrameKind.RESULT, asking, event.outputs[:1])
                actions.insert(0, Push(picks, to_coordinator=False))
        return actions + self._start_next()

    def _released(self, event: Released) -> list[Action]:
        for sequence in event.sequences:
            self._positions.pop(sequence, None)
            self._picked.forget(sequence)
        return [Forget(event.sequences)]

    def _broken(self, event: Broken) -> list[Action]:
        if self.phase is Phase.IDLE:
            return []  # the assignment that broke is gone already
        self.phase = Phase.FAILED
        return self._drop_frames()

    def _unassigned(self, event: Unassigned) -> list[Action]:
        actions = self._drop_frames()
        self.__init__()  # type: ignore[misc]
        return [*actions, Reset()]

    def _drop_frames(self) -> list[Action]:
        frames = list(self._waiting)
        self._waiting.clear()
        self._computing = None
        return [Consume(frame) for frame in frames]


def _answer(
    frame: Frame, kind: FrameKind, rows: tuple[Row, ...], tensors: tuple[Array, ...]
) -> Frame:
    """What follows from a computed frame."""
    return Frame(
        kind=kind,
        plan_version=frame.plan_version,
        microbatch=frame.microbatch,
        step=frame.step,
        attempt=frame.attempt,
        rows=rows,
        tensors=tensors,
    )
