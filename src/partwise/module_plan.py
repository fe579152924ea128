"""By which plan a captured module is deployed: a given one, or that of a strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from partwise.capture.describe import describe_graph, note_whole
from partwise.capture.files import Captured, Pattern, read_patterns
from partwise.capture.schedule import Schedule, compile_schedule
from partwise.cluster.presets import preset
from partwise.distributor import Plan, balance_layers
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.verify import verify_plan
from partwise.distributor.workload import Workload
from partwise.errors import PlanError, UsageError
from partwise.model import Model
from partwise.store import Store


@dataclass(frozen=True, kw_only=True)
class ModuleWish:
    """Who is to hold which parts of a module: see `partwise.deploy`."""

    parts: int | None = None
    servers: Sequence[str] = ()
    plan: Plan | None = None
    strategy: str | tuple[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class PreparedModule:
    """A captured module, its description, and the verified plan by which it is deployed."""

    captured: Captured
    model: Model
    plan: Plan
    schedule: Schedule


def prepare_module(captured: Captured, wish: ModuleWish) -> PreparedModule:
    """The plan that is given, or that the strategy makes (none: balanced layers).

    Raises:
        UsageError: numbers of parts, servers and the plan's parts that differ.
        PlanError: no such plan, or it does not tile the module.
    """
    model = describe_graph(captured.graph)
    with Store.open(captured.path) as store:
        patterns = read_patterns(captured.graph, store)
    plan = _choose_plan(model, patterns, wish)
    notes = note_whole(captured.graph) if any(len(s.members) > 1 for s in plan.stages) else []
    new = tuple(note for note in notes if note not in plan.notes)
    plan = msgspec.structs.replace(plan, notes=plan.notes + new)
    schedule = compile_schedule(captured.graph, plan, patterns)
    return PreparedModule(captured=captured, model=model, plan=plan, schedule=schedule)


def _choose_plan(model: Model, patterns: Mapping[str, Pattern], wish: ModuleWish) -> Plan:
    names = list(wish.servers)
    if wish.plan is not None:
        if wish.strategy is not None or wish.parts not in (None, len(wish.plan.parts)):
            raise UsageError("a plan says who holds what: leave strategy and parts out")
        verify_plan(wish.plan, model, names or None)
        return wish.plan
    if names and wish.parts not in (None, len(names)):
        raise UsageError(f"{wish.parts} parts and {len(names)} servers: give one or the other")
    if wish.parts is not None and wish.parts < 1:
        raise UsageError(f"{wish.parts} parts: ask for at least 1")
    names = names or [f"local-{i}" for i in range(wish.parts or 1)]
    if wish.strategy is None:
        return balance_layers(model, names)
    return _make_plan(model, patterns, wish.strategy, names)


def _make_plan(
    model: Model,
    patterns: Mapping[str, Pattern],
    wanted: str | tuple[str, Mapping[str, Any]],
    servers: Sequence[str],
) -> Plan:
    """The plan of a strategy over equal servers."""
    strategy, given = (wanted, {}) if isinstance(wanted, str) else wanted
    if strategy not in STRATEGIES:
        raise PlanError(f"no strategy is called {strategy!r}: give one of {', '.join(STRATEGIES)}")
    options: dict[str, Any] = dict(given)
    if strategy == "connectivity":
        options.setdefault("masks", complete_masks(model, patterns))
    equal = preset(f"local-{len(servers)}")
    renamed = zip(equal.servers, servers, strict=True)
    problem = Problem(
        model=model,
        cluster=replace(equal, servers=tuple(replace(s, name=name) for s, name in renamed)),
        workload=Workload(context_tokens=1, prefill_tokens=1),
        servers=tuple(servers),
        options=options,
    )
    return STRATEGIES[strategy].plan(problem)


def complete_masks(model: Model, patterns: Mapping[str, Pattern]) -> dict[str, Pattern]:
    """Which weights of each layer with neurons are not zero; all, where there is no pattern."""
    masks = {}
    for layer in model.layers:
        for parameter in layer.parameters:
            if layer.neuron_kinds and len(parameter.shape) == 2 and parameter.neurons:
                whole = np.ones(parameter.shape, bool)
                masks[parameter.name] = patterns.get(parameter.name, whole)
    return masks
