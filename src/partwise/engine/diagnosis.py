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

    def explain(self, parts: Sequence[Part]) -> DeadlineExceeded:
        """The error that names the first of ``parts``, in stage order, at which it waits."""
        errors = (self._explain_part(part, parts[-1]) for part in parts)
        nobody = f"every part finished {self._where}, but no result came: try again"
        return next((error for error in errors if error is not None), DeadlineExceeded(nobody))

    @property
    def _where(self) -> str:
        return f"at step {self.step} (plan_version {self.plan_version})"

    def _explain_part(self, part: Part, last: Part) -> DeadlineExceeded | None:
        """None where ``part`` finished the step."""
        pong = self.pongs.get(part.name)
        who = f"{part.name} on server {part.server!r}"
        if pong is None:
            return DeadlineExceeded(
                f"{who} does not answer {self._where}: nothing for"
                f" {self.step_s + self.answer_s:g} s; is its host alive?"
            )
        is_held = 0 < pong.oldest_step <= self.step
        if is_held and pong.waits_for_picks:
            return DeadlineExceeded(
                f"{who} waits {self._where} for what {last.name} on server {last.server!r} picked:"
                " can the one reach the other?"
            )
        if is_held or pong.received_step < self.step:
            doing = "computes" if is_held else "still waits for its input"
            return DeadlineExceeded(
                f"{who} {doing} {self._where} after {self.step_s:g} s: give it fewer layers, or a"
                " longer --step-timeout"
            )
        return None
