"""One new plan on its way into force over servers that run another: all prepare it, connect under
it, and are told the step from which it holds.

What runs goes on until all are ready. Then nothing is composed any more, what is under way comes
back, and the coordinator goes on under the new plan (`coordinator.py`).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from partwise.distributor.plan import Plan
from partwise.engine.plan_parts import PartLink, PlanParts
from partwise.engine.scheduler import Limits
from partwise.errors import DeadlineExceeded, PartwiseError, PlanError
from partwise.model import Model
from partwise.registry.publisher import Publisher
from partwise.registry.routes import compile_routes
from partwise.remote.frame import Frame
from partwise.remote.link import Link
from partwise.remote.messages import (
    Connected,
    Loaded,
    LoadProgress,
    Message,
    PlanReady,
    PlanRefused,
    PlanSwitched,
    message_frame,
)
from partwise.remote.transport import Address

CONNECT_S = 30.0
"""How long the parts may take to connect to each other."""

OF_NEXT_PLAN = (PlanReady, PlanRefused, PlanSwitched, Loaded, LoadProgress, Connected)
"""What servers say of a plan that is to follow."""

Outcome = queue.SimpleQueue[PlanParts | PartwiseError]


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPlan:
    """A checked plan that is to follow, over the servers at ``addresses`` (by name), all of which
    are deployed. They have ``prepare_s`` to prepare it; ``limits`` are those under it."""

    plan: Plan
    model: Model
    addresses: Mapping[str, Address]
    limits: Limits
    prepare_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a takeover has of the coordinator. ``send(part, frame)`` does not block; ``hold`` stops
    composing and says the next step; all parts know of a step within ``switch_s``."""

    send: Callable[[PartLink, Frame], None]
    hold: Callable[[], int]
    switch_s: float


class _Phase(StrEnum):
    PREPARING = "prepare"
    CONNECTING = "connect"
    SWITCHING = "switch"


class Takeover:
    """The way of ``target`` into force. The engine's thread owns it. ``parts`` are those of the new
    plan; ``outcome`` gets them when it is in force, or why it is not."""

    def __init__(
        self,
        target: NextPlan,
        before: PlanParts,
        publisher: Publisher,
        engine: Engine,
        outcome: Outcome,
    ) -> None:
        self.target = target
        self._outcome = outcome
        self.parts = _follow(target, before)
        self._before = before
        self._publisher = publisher
        self._engine = engine
        self._phase = _Phase.PREPARING
        self._stop_s = 0.0

    @property
    def is_switching(self) -> bool:
        """Whether the step is told, which cannot be taken back."""
        return self._phase is _Phase.SWITCHING

    @property
    def is_known(self) -> bool:
        """Whether all parts know the step."""
        return self.is_switching and not self._publisher.missing

    def begin(self) -> None:
        """Have all parts prepare.

        Raises:
            PlanError: its version does not follow the last one that was published.
        """
        self._publisher.publish(self.target.plan, self.target.prepare_s)

    def take(self, link: Link, message: Message, plan_version: int) -> None:
        """What a server says on the way; of another version it means nothing any more.

        Raises:
            PlanError: it cannot do what it was asked; names it and says why.
        """
        if plan_version != self.target.plan.plan_version:
            return
        entry, name = self.parts.find(link), self._before.find(link).part.name
        match message:
            case Loaded():
                entry.loaded = message
            case Connected():
                entry.unlinked.discard(message.part)
            case PlanRefused() if self._phase is _Phase.CONNECTING:
                raise PlanError(f"{name} cannot run plan_version {plan_version}: {message.text}")
            case PlanReady() | PlanRefused() | PlanSwitched():
                self._publisher.take(name, message)

    def advance(self) -> None:
        """Go on as far as all have answered.

        Raises:
            DeadlineExceeded: it is too late; names who did not answer.
        """
        self._publisher.check()
        if self._phase is _Phase.PREPARING and not self._publisher.missing:
            self._connect()
        if self._phase is _Phase.CONNECTING:
            late = next((entry for entry in self.parts.all if entry.unlinked), None)
            if late is None:
                self._switch()
            elif time.monotonic() > self._stop_s:
                raise self._late(late)

    def withdraw(self, error: PartwiseError) -> None:
        """Give the plan up because of ``error``: everyone forgets it."""
        self._publisher.withdraw()
        self._outcome.put(error)

    def finish(self) -> None:
        """It is in force, and nothing of the plan before it is under way."""
        self._publisher.finish()
        for entry in self.parts.all:
            entry.link.name = entry.part.name
        self._outcome.put(self.parts)

    def _connect(self) -> None:
        self._phase, self._stop_s = _Phase.CONNECTING, time.monotonic() + CONNECT_S
        for entry, connect in self.parts.expect_links(self.target.addresses):
            self._tell(entry, connect)

    def _switch(self) -> None:
        self._phase = _Phase.SWITCHING
        for entry, clock in self.parts.compare_clocks():
            self._tell(entry, clock)
        self._publisher.switch(self._engine.hold(), self._engine.switch_s)

    def _tell(self, entry: PartLink, message: Message) -> None:
        self._engine.send(entry, message_frame(message, self.parts.plan_version))

    def _late(self, entry: PartLink) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{entry.part.name} on server {entry.part.server!r} did not reach"
            f" {', '.join(sorted(entry.unlinked))} for plan_version {self.parts.plan_version} in"
            f" {CONNECT_S:g} s: is its host alive, does it reach the others?"
        )


def _follow(target: NextPlan, before: PlanParts) -> PlanParts:
    """The parts of the next plan, over the links to their servers."""
    plan = target.plan
    servers = {entry.part.server: entry for entry in before.all}
    parts = []
    for name in (member.part for stage in plan.stages for member in stage.members):
        part = plan.part(name)
        old = servers[part.server]
        entry = PartLink(
            part=part,
            routes=compile_routes(plan, target.model, name),
            link=old.link,
            clock_offset_ns=old.clock_offset_ns,
            best_round_trip_ns=old.best_round_trip_ns,
        )
        parts.append(entry)
    return PlanParts(plan, parts)
