"""The exchange of one member of a stage with the others, over a link to each of them.

What is sent and added up is in `swaps.py`, what came and waits in `inbox.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from partwise.errors import DeadlineExceeded, FrameError, RemoteError
from partwise.part.accounts import Accounts
from partwise.part.exchange import Floats
from partwise.part.inbox import Inbox, Place, list_given
from partwise.part.swaps import Round, Swap, add_up, give_all
from partwise.registry.routes import Routes
from partwise.remote.buffers import BufferPool
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.layout import Array
from partwise.remote.link import Link

ATTEND_S = 1.0
"""How long a wait may look after links in one go: signals and stops are seen between two."""

_PARTIAL_SUM = FrameKind.PARTIAL_SUM


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a member has of its server. ``attend(timeout_s)`` looks after all links until something
    came, and raises where the pass is to be abandoned; ``lose(link, error)`` ends a link."""

    attend: Callable[[float], None]
    lose: Callable[[Link, RemoteError], None]


class Members:
    """See `Exchange`. The server's thread alone uses it. Another member may take ``exchange_s`` to
    send what is due.

    ``waits_for`` is the member that a call waits for; empty: none.
    """

    def __init__(
        self, routes: Routes, server: Surroundings, accounts: Accounts, exchange_s: float
    ) -> None:
        self.num_members = len(routes.members)
        self.index = routes.index
        self.waits_for = ""
        self._routes = routes
        self._server = server
        self._exchange_s = exchange_s
        self._timeline = accounts.timeline
        self._exchanged = accounts.exchanged
        self._inbox = Inbox(routes)
        self._places: dict[Link, int] = {}
        self._microbatch = self._step = self._num_calls = 0
        self._taken: list[Frame] = []  # what was given in the last round is read until the next
        self._pool = BufferPool()
        self._total = self._pool.take(1)

    # Links

    def join(self, part: str, link: Link) -> None:
        """``link`` leads to the member ``part``."""
        self._places[link] = self._routes.members.index(part)

    def receive(self, link: Link, frame: Frame) -> None:
        """A partial sum came over ``link``.

        Raises:
            FrameError: not from a member, or it can belong to no round to come.
        """
        place = self._places.get(link)
        if place is None:
            raise FrameError(f"{link.name} sent a partial sum, and is no member of the stage")
        self._inbox.put(place, frame)

    # Passes

    def begin_pass(self, frame: Frame) -> None:
        """From now on all calls are of this frame's step."""
        self._step, self._microbatch, self._num_calls = frame.step, frame.microbatch, 0

    def end_pass(self) -> None:
        """What the last call gave is not needed any more."""
        self._release()

    # What a runner calls

    def sum(self, partial: Floats) -> Floats:
        """See `Exchange.sum`."""
        if len(self._total) < partial.nbytes:
            self._total = self._pool.take(partial.nbytes)
        total = np.frombuffer(self._total, np.float32, partial.size).reshape(partial.shape)
        self._run(add_up(partial, total, self.num_members, self.index))
        return total

    def gather(self, own: Array) -> Sequence[Array]:
        """See `Exchange.gather`."""
        return self._run(give_all(own, self.num_members))

    def _run(self, swap: Swap) -> Sequence[Array]:
        start_ns = time.monotonic_ns()
        self._timeline.begin_turn()
        self._num_calls += 1
        wanted, number = next(swap), 0
        try:
            while True:
                given = self._swap(wanted, Place(self._step, self._num_calls, number))
                wanted, number = swap.send(given), number + 1
        except StopIteration as end:
            self._exchanged.calls += 1
            self._exchanged.ns += time.monotonic_ns() - start_ns
            self._timeline.end_turn()
            outcome: Sequence[Array] = end.value
            return outcome

    def _swap(self, wanted: Round, place: Place) -> list[Array]:
        """Send what goes to the others, and wait for what comes from them."""
        self._release()
        for link, member in self._places.items():
            tensor = wanted.outgoing[member]
            frame = Frame(
                kind=_PARTIAL_SUM,
                plan_version=self._routes.plan_version,
                microbatch=self._microbatch,
                step=place.step,
                attempt=place.number,
                layer=place.exchange,
                tensors=(tensor,),
            )
            try:
                link.send(frame)
            except RemoteError as exc:
                self._server.lose(link, exc)
                self._server.attend(0)
            self._exchanged.sent_bytes += tensor.nbytes
        self._wait(place)
        frames = self._taken = self._inbox.take(place, wanted)
        return list_given(wanted.outgoing[self.index], self.index, frames)

    def _wait(self, place: Place) -> None:
        """Until all have sent, and need nothing any more of what was sent to them."""
        start_ns = 0
        while late := self._find_late():
            self.waits_for = late
            now_ns = time.monotonic_ns()
            start_ns = start_ns or now_ns
            left_s = self._exchange_s - (now_ns - start_ns) / 1e9
            if left_s < 0:
                raise self._late(place)
            self._server.attend(min(ATTEND_S, left_s))
        if start_ns:
            self._exchanged.wait_ns += time.monotonic_ns() - start_ns
            self.waits_for = ""

    def _find_late(self) -> str:
        """A member that did not send yet, or did not take yet all that was sent to it."""
        if self._inbox.num_missing:
            return self._inbox.find_missing()
        return next((link.name for link in self._places if link.has_output), "")

    def _late(self, place: Place) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._routes.part} waited {self._exchange_s:g} s for {self.waits_for}, a"
            f" member of its stage, at {place} (plan_version {self._routes.plan_version}): is"
            " its host alive? Give it fewer neurons, or a longer --step-timeout"
        )

    def _release(self) -> None:
        """Hand back what was taken last."""
        if self._taken:
            for link, member in self._places.items():
                link.release(self._taken[member - (member > self.index)])
            self._taken = []
