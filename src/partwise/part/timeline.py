"""Where the time of a part goes: computing, waiting, communication exposed and hidden."""

from __future__ import annotations

import time
from collections import deque

from partwise.remote.counters import TimeSpent

MAX_PASSES = 16
"""Passes that are remembered: what was under way for longer than so many is hidden for less."""


class Timeline:
    """Told of each change by the server's thread. Its time begins with the first frame of the
    first sequence and rests while there is none.
    """

    def __init__(self) -> None:
        self.spent = TimeSpent()
        self._since_ns = 0  # until then all time is accounted for; 0 at rest
        self._is_waiting = False
        self._pass_start_ns = 0
        self._passes: deque[tuple[int, int]] = deque(maxlen=MAX_PASSES)

    @property
    def is_resting(self) -> bool:
        """Whether there is no sequence."""
        return not self._since_ns

    def wait(self) -> None:
        """Nothing is there to be done."""
        if self._since_ns and not self._is_waiting:
            self.spent.exposed_ns += self._elapse()
            self._is_waiting = True

    def rest(self) -> None:
        """No sequence is left."""
        self._since_ns, self._is_waiting = 0, False

    def arrive(self, sent_ns: int) -> int:
        """A frame that left at ``sent_ns`` of this clock came in; how long it was under way."""
        now_ns = time.monotonic_ns()
        left_ns = min(sent_ns, now_ns)  # clocks of others are estimates
        if self._is_waiting:
            wire_ns = now_ns - max(left_ns, self._since_ns)
            self.spent.exposed_ns += wire_ns
            self.spent.wait_ns += now_ns - self._since_ns - wire_ns
        if self._is_waiting or not self._since_ns:
            self._since_ns, self._is_waiting = now_ns, False
        self.hide(left_ns, now_ns)
        return now_ns - left_ns

    def hide(self, start_ns: int, stop_ns: int) -> None:
        """Communication went on from ``start_ns`` to ``stop_ns``: as far as this part computed
        meanwhile, it is hidden."""
        if self._pass_start_ns:
            self.spent.hidden_ns += max(0, stop_ns - max(start_ns, self._pass_start_ns))
        for first_ns, last_ns in reversed(self._passes):
            if last_ns <= start_ns:
                return
            self.spent.hidden_ns += max(0, min(stop_ns, last_ns) - max(start_ns, first_ns))

    def begin_pass(self) -> None:
        """From now on it computes."""
        if self._since_ns:
            self.spent.exposed_ns += self._elapse()
        else:
            self._since_ns = time.monotonic_ns()
        self._pass_start_ns = self._since_ns

    def begin_turn(self) -> None:
        """Computing rests while messages are looked after."""
        self.spent.compute_ns += self._elapse()

    def end_turn(self) -> None:
        """Computing goes on."""
        self.spent.exposed_ns += self._elapse()

    def end_pass(self) -> None:
        """The pass is computed."""
        self.spent.compute_ns += self._elapse()
        self._passes.append((self._pass_start_ns, self._since_ns))
        self._pass_start_ns = 0

    def _elapse(self) -> int:
        """Nanoseconds since all was accounted for; now it is."""
        before_ns, self._since_ns = self._since_ns, time.monotonic_ns()
        return self._since_ns - before_ns
