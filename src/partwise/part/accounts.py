"""What a server counts for its assignment, told of each frame and pass by its thread."""

from __future__ import annotations

import time

from partwise.part.memory import resident_bytes
from partwise.part.timeline import Timeline
from partwise.remote.counters import Counters, Exchanged, Traffic
from partwise.remote.frame import Frame, FrameKind, RowFlag
from partwise.remote.messages import SetClock, Stats

_PROMPT = int(RowFlag.PROMPT)


class Accounts:
    """The sums of one assignment: of decode passes, of all time, of what came and went, and of what
    other members of the stage exchanged with it."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.received, self.sent = Traffic(), Traffic()
        self.exchanged = Exchanged()
        self._decode = Counters()
        self._idle_since_ns = 0
        self._start_ns = 0
        self._before = (0, 0)  # this pass: nanoseconds and bytes of exchanges
        self._ahead_ns = {True: 0, False: 0}  # by whether it is a part

    def set_clock(self, clock: SetClock) -> None:
        """So far this clock is ahead of others."""
        self._ahead_ns = {True: clock.ahead_ns, False: clock.ahead_of_coordinator_ns}

    def arrive(self, frame: Frame, *, is_from_part: bool) -> None:
        """``frame`` came in, from a part or else from the coordinator."""
        if frame.kind is FrameKind.RESULT and self.timeline.is_resting:
            return  # its sequences were released before
        hop_ns = self.timeline.arrive(frame.sent_ns + self._ahead_ns[is_from_part])
        # What the coordinator composed ahead has time; its picks come from a part.
        if is_from_part and _is_decode(frame):
            self._decode.hops += 1
            self._decode.hop_ns += hop_ns

    def begin_pass(self) -> None:
        """From now on a frame is computed."""
        self._start_ns = time.monotonic_ns()
        self._before = self.exchanged.ns, self.exchanged.sent_bytes
        self.timeline.begin_pass()

    def end_pass(self, frame: Frame) -> None:
        """``frame`` is computed."""
        self.timeline.end_pass()
        if _is_decode(frame):
            if self._idle_since_ns:
                self._decode.wait_ns += self._start_ns - self._idle_since_ns
            exchange_ns = self.exchanged.ns - self._before[0]
            self._decode.exchange_ns += exchange_ns
            self._decode.exchanged_bytes += self.exchanged.sent_bytes - self._before[1]
            self._decode.compute_ns += time.monotonic_ns() - self._start_ns - exchange_ns
            self._decode.passes += 1
            self._decode.tokens += len(frame.rows)

    def push(self) -> None:
        """What was computed is on its way."""
        self._idle_since_ns = time.monotonic_ns()

    def send(self, frame: Frame, num_bytes: int) -> None:
        """``frame`` was sent, in so many bytes."""
        if _is_decode(frame):
            self._decode.sent_bytes += num_bytes

    def stats(self, number: int) -> Stats:
        """All of it, as the answer to that question."""
        return Stats(
            number=number,
            counters=self._decode,
            resident_bytes=resident_bytes(),
            spent=self.timeline.spent,
            received=self.received,
            sent=self.sent,
            exchanged=self.exchanged,
        )


def _is_decode(frame: Frame) -> bool:
    """Whether every row of ``frame`` is one generated token: rows of prompts come last."""
    return bool(frame.rows) and not frame.rows[-1].flags & _PROMPT
