"""What a server of a captured module was given to do: its part of a plan, checked and loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from partwise.capture.describe import describe_graph
from partwise.capture.files import open_captured, read_patterns
from partwise.capture.schedule import Schedule, compile_schedule
from partwise.distributor.plan import decode_plan
from partwise.distributor.verify import verify_plan
from partwise.part.module.runner import ModuleRunner
from partwise.remote.frame import Frame
from partwise.remote.link import Link
from partwise.remote.messages import MAX_THREADS, Assign, Pushed
from partwise.store import Store

Key = tuple[int, str, int]
"""Of a frame: its step, the part that sent it, and the phase of that part."""


@dataclass(kw_only=True, eq=False)
class Assigned:
    """The part that a server hosts: its links to others, what came and was not taken yet. A pass
    waits ``exchange_s`` for what another part owes it."""

    part: str
    deployment: str
    schedule: Schedule
    runner: ModuleRunner
    exchange_s: float
    links: dict[str, Link] = field(default_factory=dict)
    inbox: dict[Key, tuple[Link, Frame]] = field(default_factory=dict)
    pushed: dict[str, Pushed] = field(default_factory=dict)
    finished_step: int = 0
    has_failed: bool = False


def load(assign: Assign, threads: int) -> Assigned:
    """The part that ``assign`` asks for, with its parameters: the plan is proved once more. This
    thread computes with as many threads as it asks for, or else ``threads``.

    Raises:
        PartwiseError: the module or the plan cannot be read, or they do not fit each other.
    """
    import torch

    plan = decode_plan(assign.plan)
    captured = open_captured(Path(assign.model_path))
    verify_plan(plan, describe_graph(captured.graph))
    plan.stage_of(assign.part)
    torch.set_num_threads(min(assign.threads or threads, MAX_THREADS))
    with Store.open(captured.path) as store:
        schedule = compile_schedule(captured.graph, plan, read_patterns(captured.graph, store))
        runner = ModuleRunner(schedule, assign.part, store)
    return Assigned(
        part=assign.part,
        deployment=assign.deployment,
        schedule=schedule,
        runner=runner,
        exchange_s=assign.exchange_s,
    )
