"""What a coordinator gave a server to do: its part of a plan, checked, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partwise.distributor.plan import Plan, decode_plan
from partwise.distributor.runners import check_runners
from partwise.distributor.verify import verify_plan
from partwise.distributor.whole import check_whole
from partwise.errors import LaunchError
from partwise.model import Model
from partwise.part.machine import Assigned
from partwise.part.runner import Runner, RunnerFactory, RunnerOptions
from partwise.remote.messages import MAX_THREADS, Assign
from partwise.store import Store, open_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One part of a verified plan, and the model as this server sees it."""

    part: str
    deployment: str
    plan: Plan
    model: Model
    model_path: Path
    threads: int

    @property
    def last_part(self) -> str:
        """Which part picks."""
        return self.plan.stages[-1].members[-1].part

    def event(self) -> Assigned:
        """What the part's machine is to know of it."""
        stage = self.plan.stage_of(self.part)
        is_first = stage.start == 0
        return Assigned(
            part=self.part,
            plan_version=self.plan.plan_version,
            is_first=is_first,
            is_last=stage.stop == len(self.model.layers),
            vocab_size=self.model.vocab_size,
            input_dtype=np.dtype(np.int64 if is_first else np.float32),
            input_widths=() if is_first else (self.model.hidden_size,),
            input_codecs=frozenset(
                {"fp32"}
                if is_first
                else {link.codec for link in self.plan.links if link.target == self.part}
            ),
        )

    def codec_to(self, part: str) -> str:
        """What the plan sends to ``part`` as."""
        codecs = [
            link.codec
            for link in self.plan.links
            if (link.source, link.target) == (self.part, part)
        ]
        return codecs[0] if codecs else "fp32"

    def load(self, make_runner: RunnerFactory, on_progress: Callable[[int, int], None]) -> Runner:
        """A runner with the part's weights; ``on_progress`` as `RunnerOptions` says.

        Raises:
            Exception: whatever the runner or the store raises.
        """
        with Store.open(self.model_path, self.model.version) as store:
            options = RunnerOptions(
                plan=self.plan,
                part=self.part,
                model=self.model,
                model_path=self.model_path,
                store=store,
                threads=self.threads,
                on_progress=on_progress,
            )
            return make_runner(options)


def open_assignment(assign: Assign) -> Assignment:
    """Check what was assigned: a server trusts no plan that it has not verified itself.

    Raises:
        PartwiseError: the plan cannot be read, does not tile the model that lies here, or needs
            what the runners cannot do.
    """
    if not 0 <= assign.threads <= MAX_THREADS:
        raise LaunchError(
            f"{assign.threads} threads are asked for: give 1 to {MAX_THREADS}, or 0 and the server"
            " decides"
        )
    plan = decode_plan(assign.plan)
    plan.stage_of(assign.part)
    model = open_version(assign.model_path, plan.model.version)
    verify_plan(plan, model)
    check_whole(plan)
    check_runners(plan, model)
    return Assignment(
        part=assign.part,
        deployment=assign.deployment,
        plan=plan,
        model=model,
        model_path=Path(assign.model_path),
        threads=assign.threads,
    )
