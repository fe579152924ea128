"""Under which plan_version a part computes each step: a pure state machine, without links or time.

All parts are told one step at which the next plan takes over, before any frame of that step leaves
the coordinator (`publisher.py`). So each step is computed under one plan by all of them, in
whatever order frames and messages arrive.
"""

from __future__ import annotations

from partwise.errors import PlanError


class PlanVersions:
    """The plan in force here and the next. One thread owns it.

    ``prepared`` is a version that could run and is not said when to (None: there is none).
    ``last_step`` is the last one that was begun. Steps of the plan before the one in force are
    still of that one, until it is dropped or another is prepared.
    """

    def __init__(self, plan_version: int, last_step: int = 0) -> None:
        self.prepared: int | None = None
        self.last_step = last_step
        self._epochs = [(0, plan_version)]  # from which step on which version; at most two

    @property
    def in_force(self) -> int:
        """The version of the last step that was begun."""
        return self.find(self.last_step)

    @property
    def following(self) -> tuple[int, int] | None:
        """The version that takes over and its first step, until that is begun."""
        step, plan_version = self._epochs[-1]
        return (plan_version, step) if step > self.last_step else None

    def find(self, step: int) -> int:
        """The version of ``step``, as far as is known; of an early one the oldest that is held."""
        return next((v for start, v in reversed(self._epochs) if start <= step), self._epochs[0][1])

    def refuse(self, step: int, plan_version: int) -> str | None:
        """Why a frame of that step and version is not taken; None: it is."""
        expected = self.find(step)
        if plan_version == expected:
            return None
        return f"step {step} is of plan_version {expected}, the frame is of {plan_version}"

    def begin(self, step: int) -> int:
        """``step`` is computed from now on; under which version."""
        self.last_step = max(self.last_step, step)
        return self.find(step)

    def prepare(self, plan_version: int) -> None:
        """That version can run here, instead of what was prepared before.

        Raises:
            PlanError: it does not follow the one in force, or another is about to take over.
        """
        if self.following is not None:
            following, step = self.following
            raise PlanError(
                f"plan_version {plan_version} comes too soon: {following} takes over at step {step}"
                f" and the last is {self.last_step}; publish it after that"
            )
        if plan_version <= self.in_force:
            raise PlanError(
                f"plan_version {plan_version} is stale: {self.in_force} is in force, number the"
                f" plan {self.in_force + 1} or higher"
            )
        self._epochs = self._epochs[-1:]
        self.prepared = plan_version

    def switch(self, plan_version: int, at_step: int) -> None:
        """What is prepared takes over at ``at_step``. A repetition changes nothing.

        Raises:
            PlanError: that version is not prepared, or the step is begun already.
        """
        if self.following == (plan_version, at_step):
            return
        if plan_version != self.prepared:
            has = "nothing is" if self.prepared is None else f"{self.prepared} is"
            raise PlanError(
                f"plan_version {plan_version} cannot take over at step {at_step}: {has} prepared"
            )
        if at_step <= self.last_step:
            raise PlanError(
                f"plan_version {plan_version} cannot take over at step {at_step}: step"
                f" {self.last_step} is begun under {self.in_force}; name a later one"
            )
        self._epochs.append((at_step, plan_version))
        self.prepared = None

    def drop(self, plan_version: int) -> bool:
        """Forget that version, prepared or no longer in force; whether it was held.

        Raises:
            PlanError: it is in force, or about to be.
        """
        if plan_version == self.prepared:
            self.prepared = None
            return True
        if plan_version not in [version for _, version in self._epochs]:
            return False
        if self.following is not None or plan_version == self.in_force:
            raise PlanError(f"plan_version {plan_version} is in use: it cannot be dropped")
        self._epochs = self._epochs[-1:]
        return True
