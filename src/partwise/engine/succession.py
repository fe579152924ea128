"""Plans that follow each other in one deployment: at most one is on its way."""

from __future__ import annotations

from partwise.engine.plan_parts import PartLink, PlanParts
from partwise.engine.takeover import Engine, NextPlan, Outcome, Takeover
from partwise.errors import DeadlineExceeded, PartwiseError, PlanError
from partwise.registry.publisher import Publisher
from partwise.remote.frame import Frame
from partwise.remote.link import Link
from partwise.remote.messages import Message

GIVEN_UP = (PlanError, DeadlineExceeded)
"""A part does not do what the new plan asks for; all others end the deployment."""


class Succession:
    """What follows ``parts``, those in force. The engine's thread owns it. ``takeover`` is under
    way; None: none is."""

    def __init__(self, parts: PlanParts, engine: Engine) -> None:
        self.takeover: Takeover | None = None
        self._engine = engine
        self._use(parts)

    def _use(self, parts: PlanParts) -> None:
        entries: dict[str, PartLink] = {entry.part.name: entry for entry in parts.all}

        def send(name: str, frame: Frame) -> None:
            self._engine.send(entries[name], frame)

        self._parts = parts
        self._publisher = Publisher(list(entries), send, parts.plan_version)

    def begin(self, target: NextPlan, outcome: Outcome) -> None:
        """Have ``target`` follow; ``outcome`` gets its parts, or why not."""
        if self.takeover is not None:
            version = self.takeover.parts.plan_version
            text = f"plan_version {version} is on its way: wait until it is in force"
            outcome.put(PlanError(text))
            return
        takeover = Takeover(target, self._parts, self._publisher, self._engine, outcome)
        try:
            takeover.begin()
        except PlanError as exc:
            outcome.put(exc)
            return
        self.takeover = takeover

    def take(self, link: Link, message: Message, plan_version: int) -> None:
        """A server says so of a plan that is to follow, or was.

        Raises:
            PartwiseError: nothing can go on.
        """
        if self.takeover is None:
            return
        try:
            self.takeover.take(link, message, plan_version)
        except GIVEN_UP as exc:
            self._give_up(self.takeover, exc)

    def advance(self) -> bool:
        """Go on as far as all have answered; whether all know the step, before which nothing of the
        new plan may leave.

        Raises:
            PartwiseError: nothing can go on.
        """
        if self.takeover is None:
            return False
        try:
            self.takeover.advance()
        except GIVEN_UP as exc:
            self._give_up(self.takeover, exc)
            return False
        return self.takeover.is_known

    def finish(self) -> Takeover:
        """Nothing of the plan in force is under way any more: the new one is. What led to it."""
        takeover = self.takeover
        assert takeover is not None, "nothing takes over"
        takeover.finish()
        self.takeover = None
        self._use(takeover.parts)
        return takeover

    def _give_up(self, takeover: Takeover, error: PartwiseError) -> None:
        """The plan is not to follow; where its step was told, that cannot be taken back."""
        if takeover.is_switching:
            raise error
        self.takeover = None
        takeover.withdraw(error)
