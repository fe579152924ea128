"""Brings a new plan to all parts and makes it take effect at one step on all of them.

In two rounds, each over when all have answered: every part prepares the plan beside the one in
force, which may take long and harms nobody where it fails; then all are told the step. Until they
have said that they know it no frame of that step or a later one may leave: who calls sees to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from partwise.distributor.plan import Plan
from partwise.errors import DeadlineExceeded, PlanError
from partwise.remote.frame import Frame
from partwise.remote.messages import (
    DropPlan,
    Message,
    PlanChange,
    PlanReady,
    PlanRefused,
    PlanSwitched,
    SwitchPlan,
    message_frame,
)

POLL_S = 0.2

Answer = PlanReady | PlanSwitched | PlanRefused


class Publisher:
    """One round at a time among ``names``, of a deployment that runs ``plan_version``.

    ``send(name, frame)`` sends without blocking; answers come back through `take`. One thread
    owns it. Nothing blocks but `wait`.
    """

    def __init__(
        self, names: Sequence[str], send: Callable[[str, Frame], None], plan_version: int
    ) -> None:
        self._names = tuple(names)
        self._send = send
        self._in_force = plan_version
        self._last_version = plan_version
        self._expected: type[Message] = PlanReady
        self._what = ""
        self._missing: dict[str, None] = {}
        self._deadline_s = self._stop_s = 0.0

    @property
    def missing(self) -> tuple[str, ...]:
        """Who has not answered in this round; nobody: it is over."""
        return tuple(self._missing)

    def publish(self, plan: Plan, deadline_s: float) -> None:
        """Have everyone prepare ``plan``, within ``deadline_s`` from now.

        Raises:
            PlanError: its version does not follow the last one that was published.
        """
        version = plan.plan_version
        if version <= self._last_version:
            raise PlanError(
                f"plan_version {version} does not follow {self._last_version}: number the plan"
                f" {self._last_version + 1} or higher"
            )
        self._last_version = version
        message = PlanChange(plan=msgspec.json.encode(plan), plan_version=version)
        self._ask(message, PlanReady, f"prepare plan_version {version}", deadline_s)

    def switch(self, at_step: int, deadline_s: float) -> None:
        """Have everyone run what they prepared from ``at_step`` on."""
        assert self._expected is PlanReady, "what is not prepared cannot take over"
        assert not self._missing, "not everyone is ready"
        message = SwitchPlan(plan_version=self._last_version, at_step=at_step)
        what = f"switch to plan_version {self._last_version} at step {at_step}"
        self._ask(message, PlanSwitched, what, deadline_s)

    def withdraw(self) -> None:
        """Give up the plan that is being prepared: everyone forgets it."""
        assert self._expected is PlanReady, "what was to take over cannot be taken back"
        self._missing.clear()
        self._tell(DropPlan(plan_version=self._last_version))

    def finish(self) -> None:
        """The new plan is in force everywhere and nothing of the old one is under way: everyone
        forgets that."""
        assert self._expected is PlanSwitched, "nothing took over"
        old, self._in_force = self._in_force, self._last_version
        self._tell(DropPlan(plan_version=old))

    def take(self, name: str, answer: Answer) -> None:
        """``name`` said so. What it says of an earlier version means nothing any more.

        Raises:
            PlanError: it cannot do what it was asked; names it and says why.
        """
        if answer.plan_version != self._last_version or name not in self._missing:
            return
        if isinstance(answer, PlanRefused):
            raise PlanError(f"{name} does not {self._what}: {answer.text}")
        if isinstance(answer, self._expected):
            del self._missing[name]

    def check(self) -> None:
        """Look at the clock.

        Raises:
            DeadlineExceeded: it is too late; names who did not answer.
        """
        if self._missing and time.monotonic() > self._stop_s:
            names, others = ", ".join(self.missing[:4]), len(self.missing) - 4
            more = f" and {others} others" if others > 0 else ""
            raise DeadlineExceeded(
                f"{names}{more} did not {self._what} in {self._deadline_s:g} s: are their hosts"
                " alive?"
            )

    def wait(self, poll: Callable[[float], None]) -> None:
        """Until all have answered, by ``poll(timeout_s)``, in which answers reach `take`. Blocks.

        Raises:
            DeadlineExceeded: as `check`.
            PlanError: as `take`.
        """
        while self._missing:
            poll(max(0.0, min(POLL_S, self._stop_s - time.monotonic())))
            self.check()

    def _ask(self, message: Message, expected: type[Message], what: str, deadline_s: float) -> None:
        self._expected, self._what = expected, what
        self._deadline_s, self._stop_s = deadline_s, time.monotonic() + deadline_s
        self._missing = dict.fromkeys(self._names)
        self._tell(message)

    def _tell(self, message: Message) -> None:
        frame = message_frame(message, self._in_force)
        for name in self._names:
            self._send(name, frame)
