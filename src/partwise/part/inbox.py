"""What the other members of a stage sent, until it is their turn: pure, without IO and clock.

A member goes on to its next round only when it has what all others sent in this one, so that none
is ahead of another by more than a round, of whichever pass. What each sends comes in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from partwise.errors import FrameError
from partwise.part.swaps import Round
from partwise.registry.routes import Routes
from partwise.remote.codecs import Packed
from partwise.remote.frame import Frame
from partwise.remote.layout import Array

MAX_KEPT = 2
"""Frames of one member that may wait here: of this round, and of the next."""


class Place(NamedTuple):
    """Where a round is: in a step, in which of its exchanges (from 1), and which of its rounds."""

    step: int
    exchange: int
    number: int

    def __str__(self) -> str:
        return f"step {self.step}, exchange {self.exchange}, round {self.number + 1}"


class Inbox:
    """Frames of the other members that are not taken yet; ``num_missing`` of them sent nothing for
    the round that is next."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._waiting: list[deque[Frame]] = [deque() for _ in routes.members]
        self._last = [Place(0, 0, 0)] * len(routes.members)
        self.num_missing = len(routes.members) - 1

    def put(self, member: int, frame: Frame) -> None:
        """``frame`` came from the member at that place.

        Raises:
            FrameError: it can belong to no round to come.
        """
        self._check(member, frame)
        waiting = self._waiting[member]
        if not waiting:
            self.num_missing -= 1
        waiting.append(frame)
        self._last[member] = _find_place(frame)

    def find_missing(self) -> str:
        """The first member that sent nothing for the round that is next; empty: none."""
        for place, waiting in enumerate(self._waiting):
            if not waiting and place != self._routes.index:
                return self._routes.members[place]
        return ""

    def take(self, place: Place, wanted: Round) -> list[Frame]:
        """The frames of the round at ``place``, of all members but this one, none of which is
        missing.

        Raises:
            FrameError: one is of another round, or is not what is ``wanted``.
        """
        frames = []
        for member, waiting in enumerate(self._waiting):
            if member == self._routes.index:
                continue
            frame = waiting.popleft()
            if not waiting:
                self.num_missing += 1
            if _find_place(frame) != place:
                raise FrameError(
                    f"{self._routes.members[member]} is at {_find_place(frame)} of the exchanges"
                    f" of its stage, {self._routes.part} at {place} (plan_version"
                    f" {frame.plan_version}): do both serve the same plan and model?"
                )
            self._check_tensor(member, frame, place, wanted)
            frames.append(frame)
        return frames

    def _check(self, member: int, frame: Frame) -> None:
        name, version = self._routes.members[member], self._routes.plan_version
        if frame.plan_version != version:
            raise FrameError(
                f"{name} sent a partial sum of plan_version {frame.plan_version}:"
                f" {self._routes.part} serves plan_version {version}"
            )
        place = _find_place(frame)
        if place <= self._last[member]:
            raise FrameError(
                f"{name} sent a partial sum of {place} (plan_version {version}) after one of"
                f" {self._last[member]}"
            )
        if len(self._waiting[member]) >= MAX_KEPT:
            raise FrameError(
                f"{name} sent a partial sum of {place} (plan_version {version}): {MAX_KEPT} others"
                " wait, which is as far ahead as members can be"
            )
        if len(frame.tensors) != 1 or isinstance(frame.tensors[0], Packed):
            raise FrameError(
                f"{name} sent {len(frame.tensors)} tensors for {place}: a partial sum is one, as"
                " computed"
            )

    def _check_tensor(self, member: int, frame: Frame, place: Place, wanted: Round) -> None:
        own, found = wanted.outgoing[self._routes.index], frame.tensors[0]
        if wanted.shapes is None:
            is_right, expected = len(found.shape) == own.ndim, f"{own.ndim} dimensions"
        else:
            is_right = found.shape == wanted.shapes[member]
            expected = f"shape {wanted.shapes[member]}"
        if found.dtype != own.dtype or not is_right:
            raise FrameError(
                f"{self._routes.members[member]} sent {found.dtype} of shape {found.shape} for"
                f" {place} (plan_version {frame.plan_version}): {self._routes.part} expects"
                f" {own.dtype} of {expected}; do both serve the same plan and model?"
            )


def _find_place(frame: Frame) -> Place:
    return Place(frame.step, frame.layer, frame.attempt)


def list_given(own: Array, index: int, frames: Sequence[Frame]) -> list[Array]:
    """What every member gave in a round, in the order of the plan: ``own`` at ``index``, and the
    tensors of the others' ``frames``."""
    given: list[Array] = [frame.tensors[0] for frame in frames]  # type: ignore[misc]
    given.insert(index, own)
    return given
