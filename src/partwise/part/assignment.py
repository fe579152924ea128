"""What a coordinator gave a server to do: its part of a plan, checked, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partwise.distributor.build import say_bytes
from partwise.distributor.holding import measure_holding
from partwise.distributor.plan import Plan, decode_plan
from partwise.distributor.runners import check_runners
from partwise.distributor.verify import verify_plan
from partwise.distributor.whole import check_whole
from partwise.errors import LaunchError, PlanError
from partwise.model import Model
from partwise.part.events import Assigned
from partwise.part.exchange import Exchange
from partwise.part.huge_pages import explain_small_pages, use_huge_pages
from partwise.part.memory import available_bytes
from partwise.part.runner import Runner, RunnerFactory, RunnerOptions
from partwise.registry.routes import Routes, compile_routes
from partwise.remote.messages import MAX_THREADS, Assign
from partwise.store import Store, open_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One part of a verified plan, its ways to others, and the model as this server sees it."""

    part: str
    deployment: str
    plan: Plan
    routes: Routes
    model: Model
    model_path: Path
    threads: int
    exchange_s: float

    @property
    def leader(self) -> str:
        """Which part tells what was picked."""
        return self.plan.stages[-1].members[0].part

    def event(self) -> Assigned:
        """What the part's machine is to know of it."""
        source = self.routes.source
        is_first = source is None
        return Assigned(
            part=self.part,
            plan_version=self.plan.plan_version,
            is_first=is_first,
            is_last=self.plan.stage_of(self.part) == self.plan.stages[-1],
            num_members=len(self.routes.members),
            is_leader=self.routes.is_leader,
            vocab_size=self.model.vocab_size,
            input_dtype=np.dtype(np.int64 if is_first else np.float32),
            input_widths=() if is_first else (self.model.hidden_size,),
            input_codecs=frozenset({source.codec if source else "fp32"}),
        )

    def codec_to(self, part: str) -> str:
        """What the plan sends to ``part`` as: what was picked goes as it is."""
        return next((leg.codec for leg in self.routes.targets if leg.part == part), "fp32")

    def follow(self, plan: Plan) -> Assignment:
        """What this server holds under the next ``plan``, of the same model.

        Raises:
            PlanError: the plan is for another version of the model, does not tile it, gives this
                server nothing, or more than it can hold beside what it holds; or needs what the
                runners cannot do.
        """
        server = self.plan.part(self.part).server
        part = next((part.name for part in plan.parts if part.server == server), None)
        if part is None:
            raise PlanError(f"the plan has no part for server {server!r}: give it one")
        if plan.model.version != self.plan.model.version:
            raise PlanError(
                f"the plan is for version {plan.model.version} of {plan.model.name}, version"
                f" {self.plan.model.version} runs: plan with that one, or deploy anew"
            )
        _check_plan(plan, self.model)
        routes = compile_routes(plan, self.model, part)
        following = replace(self, plan=plan, part=part, routes=routes)
        following.check_room(server)
        return following

    def check_room(self, server: str) -> None:
        """Whether the part's weights fit beside what ``server`` holds now.

        Raises:
            PlanError: they do not; with the bytes.
        """
        needed = measure_holding(self.plan, self.model, self.part).weight_bytes
        limit = available_bytes()
        if needed > limit:
            stage = self.plan.stage_of(self.part)
            raise PlanError(
                f"{self.part} needs {say_bytes(needed)} ({needed} bytes) for"
                f" {self.model.describe_range(stage.start, stage.stop)} beside what server"
                f" {server!r} holds, which may take {say_bytes(limit)} ({limit} bytes) more: give"
                " it less, or end the deployment and deploy this plan"
            )

    def load(
        self,
        make_runner: RunnerFactory,
        on_progress: Callable[[int, int], None],
        exchange: Exchange | None,
    ) -> Runner:
        """A runner with the part's weights; ``on_progress`` and ``exchange`` as `RunnerOptions`
        says.

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
                exchange=exchange,
            )
            runner = make_runner(options)
        moved_bytes = use_huge_pages(lambda: on_progress(runner.weight_bytes, runner.weight_bytes))
        note = explain_small_pages(runner.host_bytes, moved_bytes)
        runner.notes += () if note is None else (note,)
        return runner


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
    _check_plan(plan, model)
    return Assignment(
        part=assign.part,
        deployment=assign.deployment,
        plan=plan,
        routes=compile_routes(plan, model, assign.part),
        model=model,
        model_path=Path(assign.model_path),
        threads=assign.threads,
        exchange_s=assign.exchange_s,
    )


def _check_plan(plan: Plan, model: Model) -> None:
    verify_plan(plan, model)
    check_whole(plan)
    check_runners(plan, model)
