"""What a part does about each event: a pure state machine, without IO, clock or tensors' values.

Events go into `PartMachine.handle`, actions come out in the order in which they are to be
done. The loop in `server.py` does them and hands their outcomes back as events.

    IDLE --Assigned--> LOADING --LoadDone--> LOADED --Joined--> SERVING
      ^                   |                     |                  |
      +---- Unassigned ---+----- (from any) ----+------------------+
    any but IDLE --Broken--> FAILED --Unassigned--> IDLE
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

from partwise.part.backlog import Backlog, ByStep, FirstReady
from partwise.part.events import (
    Action,
    Assigned,
    Broken,
    Compute,
    Computed,
    Consume,
    Event,
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
from partwise.part.picked import PickedTokens
from partwise.part.refusals import refuse_picks, refuse_row, refuse_tensor
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.layout import Array
from partwise.remote.messages import Ping, Pong

MAX_WAITING_FRAMES = 1024
ALL_STEPS = range(1 << 64)

_PICK = int(RowFlag.PICK)


class Phase(StrEnum):
    """Where a server stands with its assignment."""

    IDLE = "idle"
    LOADING = "loading"
    LOADED = "loaded"
    SERVING = "serving"
    FAILED = "failed"


class PartMachine:
    """The state of one server's assignment. Only `handle` changes it."""

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self.assignment: Assigned | None = None
        self.finished_step = 0
        self.steps = ALL_STEPS  # those of this plan
        self._positions: dict[int, int] = {}  # sequence -> its next position here
        self._backlog: Backlog = FirstReady()
        self._releases: deque[Released] = deque()  # of steps that are to come here
        self._picked = PickedTokens()
        self._computing: Frame | None = None
        self._handlers: dict[type, Callable[..., list[Action]]] = {
            Assigned: self._assigned,
            LoadDone: self._load_done,
            Joined: self._joined,
            Spanned: self._spanned,
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
    def received_step(self) -> int:
        """The last step that was taken, of those before which none is known to lack; 0: none."""
        return self._backlog.last_step

    @property
    def oldest_step(self) -> int:
        """The least step that was taken and is not finished; 0: there is none."""
        frames = [self._computing] if self._computing else []
        return min((f.step for f in (*frames, *self._backlog.list_frames())), default=0)

    @property
    def waits_for_picks(self) -> bool:
        """Whether frames wait although nothing is computed: their tokens are still to be picked."""
        return self._computing is None and self._backlog.waits_for_picks

    @property
    def has_sequences(self) -> bool:
        """Whether it holds any that is not released."""
        return bool(self._positions)

    def answer(self, ping: Ping, clock_ns: int, waits_for: str) -> Pong:
        """Where its steps stand, at ``clock_ns`` of the server's clock; ``waits_for``: for which
        other member of its stage it does."""
        return Pong(
            number=ping.number,
            sent_ns=ping.sent_ns,
            clock_ns=clock_ns,
            received_step=self.received_step,
            finished_step=self.finished_step,
            oldest_step=self.oldest_step,
            waits_for_picks=self.waits_for_picks,
            waits_for=waits_for,
        )

    def _assigned(self, event: Assigned) -> list[Action]:
        self.assignment = event
        self.phase = Phase.LOADING
        self._backlog = ByStep() if event.num_members > 1 else FirstReady()
        return [Load()]

    def _load_done(self, event: LoadDone) -> list[Action]:
        self.phase = Phase.LOADED
        is_alone = self._is_first and self._is_last and not self._is_shared
        return self._joined(Joined()) if is_alone else []

    def _joined(self, event: Joined) -> list[Action]:
        self.phase = Phase.SERVING
        return []

    def _spanned(self, event: Spanned) -> list[Action]:
        is_new_start = event.start != self.steps.start
        self.steps = range(event.start, event.stop)
        if is_new_start and self._is_shared:
            self._backlog = ByStep(event.start)
        return []

    @property
    def _is_first(self) -> bool:
        return self.assignment is not None and self.assignment.is_first

    @property
    def _is_last(self) -> bool:
        return self.assignment is not None and self.assignment.is_last

    @property
    def _is_shared(self) -> bool:
        return self.assignment is not None and self.assignment.num_members > 1

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
        if num_known == len(rows) or self._backlog.knows(frame):
            return [Consume(frame)]  # a duplicate
        positions = {row.sequence: self._positions.get(row.sequence, 0) for row in rows}
        for row in rows:
            before = positions[row.sequence]
            is_after_frame = before == self._positions.get(row.sequence)
            if reason := refuse_row(self.name, row, before, is_after_frame=is_after_frame):
                return [Refuse(frame, reason), Consume(frame)]
            positions[row.sequence] += row.num_tokens
        self._positions.update(positions)
        self._backlog.add(frame)
        return self._start_next()

    def _refusal(self, frame: Frame) -> str | None:
        """Why ``frame`` cannot be taken now, whatever its rows."""
        if self.assignment is None or self.phase is not Phase.SERVING:
            return f"{self.name} is {self.phase}, not serving"
        if frame.plan_version != self.assignment.plan_version or frame.step not in self.steps:
            return self._refuse_plan(frame, self.assignment.plan_version)
        if frame.kind is FrameKind.RESULT and self._is_first:
            return refuse_picks(frame, self.assignment, self._positions)
        if frame.kind is not FrameKind.FORWARD or not frame.rows:
            return f"{self.name} computes forward frames with rows, not {frame.kind.name} frames"
        if len(self._backlog) >= MAX_WAITING_FRAMES:
            return f"{len(self._backlog)} frames wait at {self.name}, the limit"
        return refuse_tensor(frame, self.assignment)

    def _refuse_plan(self, frame: Frame, plan_version: int) -> str:
        """Why ``frame`` is not of the plan that is served."""
        if frame.plan_version != plan_version:
            return (
                f"{self.name} serves plan_version {plan_version},"
                f" the frame is of {frame.plan_version}"
            )
        start, stop = self.steps.start, self.steps.stop
        return (
            f"{self.name} computes steps {start}:{stop} under plan_version {plan_version},"
            f" the frame is of step {frame.step}"
        )

    def _start_next(self) -> list[Action]:
        """Compute the next waiting frame, if one may be computed now."""
        if self._computing is not None:
            return []
        found = self._backlog.pop(self._picked if self._is_first else None)
        if found is None:
            return []
        self._computing, picked = found
        return [Compute(self._computing, picked)]

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
        actions = self._answer(frame, event.outputs)
        if self._releases:
            actions += self._release()
        return actions + self._start_next()

    def _answer(self, frame: Frame, outputs: tuple[Array, ...]) -> list[Action]:
        """What goes on from a computed frame; it is done with."""
        if not self._is_last:
            pushed = _follow(frame, FrameKind.FORWARD, frame.rows, outputs)
            return [Push(pushed, to_coordinator=False), Consume(frame)]
        actions: list[Action] = []
        asking = tuple([row for row in frame.rows if row.flags & _PICK])
        is_leader = self.assignment is not None and self.assignment.is_leader
        if asking and self._is_first:
            self._note_picks(asking, outputs[0])
        elif asking and is_leader:  # first of all: the first stage waits for it
            picks = _follow(frame, FrameKind.RESULT, asking, outputs[:1])
            actions.append(Push(picks, to_coordinator=False))
        if is_leader:
            result = _follow(frame, FrameKind.RESULT, frame.rows, outputs)
            actions.append(Push(result, to_coordinator=True))
        return [*actions, Consume(frame)]

    def _released(self, event: Released) -> list[Action]:
        self._releases.append(event)
        return self._release()

    def _release(self) -> list[Action]:
        """Forget what may be forgotten: of members of a stage one may be behind the one that
        answered, with steps of these sequences still to come."""
        sequences: list[int] = []
        while self._releases:
            if self._is_shared and self._releases[0].step > self.finished_step:
                break
            sequences += self._releases.popleft().sequences
        for sequence in sequences:
            self._positions.pop(sequence, None)
            self._picked.forget(sequence)
        return [Forget(tuple(sequences))] if sequences else []

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
        frames = self._backlog.list_frames()
        self._backlog = FirstReady()
        self._computing = None
        return [Consume(frame) for frame in frames]


def _follow(
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
