"""Which part keeps a step waiting: asked of all of them with a ping, once a step is late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from partwise.distributor.plan import Part
from partwise.errors import DeadlineExceeded
from partwise.remote.messages import Pong


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """A step of a microbatch is late: what the parts answered since, by name.

    They have until ``stop_s`` (monotonic seconds); ``step_s`` is what the step was given.
    """

    microbatch: int
    step: int
    plan_version: int
    step_s: float
    answer_s: float
    stop_s: float
    pongs: dict[str, Pong] = field(default_factory=dict)

    def explain(self, parts: Sequence[Part], leader: Part) -> DeadlineExceeded:
        """The error that names the first of ``parts``, in stage order, at which it waits;
        ``leader`` tells what is picked. Where members of a stage wait for another one, it is that
        one."""
        late = next((part for part in parts if not self._is_finished(part)), None)
        if late is None:
            nobody = f"every part finished {self._where}, but no result came: try again"
            return DeadlineExceeded(nobody)
        unfinished = {part.name: part for part in parts if not self._is_finished(part)}
        del unfinished[late.name]  # members that wait for each other are followed once
        while (awaited := unfinished.pop(self._find_awaited(late), None)) is not None:
            late = awaited
        return self._explain_part(late, leader)

    def _is_finished(self, part: Part) -> bool:
        pong = self.pongs.get(part.name)
        return pong is not None and not self._is_held(pong) and pong.received_step >= self.step

    def _is_held(self, pong: Pong) -> bool:
        """Whether the part took the step, and did not finish it."""
        return 0 < pong.oldest_step <= self.step

    def _find_awaited(self, part: Part) -> str:
        """The member of its stage that ``part`` waits for; empty: none."""
        pong = self.pongs.get(part.name)
        return pong.waits_for if pong is not None else ""

    @property
    def _where(self) -> str:
        return f"at step {self.step} (plan_version {self.plan_version})"

    def _explain_part(self, part: Part, leader: Part) -> DeadlineExceeded:
        pong = self.pongs.get(part.name)
        who = f"{part.name} on server {part.server!r}"
        if pong is None:
            return DeadlineExceeded(
                f"{who} does not answer {self._where}: nothing for"
                f" {self.step_s + self.answer_s:g} s; is its host alive?"
            )
        if self._is_held(pong) and pong.waits_for:
            return DeadlineExceeded(
                f"{who} waits {self._where} for {pong.waits_for}, a member of its stage: can the"
                " one reach the other?"
            )
        if self._is_held(pong) and pong.waits_for_picks:
            return DeadlineExceeded(
                f"{who} waits {self._where} for what {leader.name} on server {leader.server!r}"
                " picked: can the one reach the other?"
            )
        doing = "computes" if self._is_held(pong) else "still waits for its input"
        return DeadlineExceeded(
            f"{who} {doing} {self._where} after {self.step_s:g} s: give it fewer layers or"
            " neurons, or a longer --step-timeout"
        )
