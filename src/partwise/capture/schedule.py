"""What each part of a captured module does in a pass: phases of computing, and what they push.

Compiled once per plan_version, by every part for itself, from the graph, the plan and where weights
are zero. A part computes until an operation needs what another part has: there a phase ends, and
what others need of it goes to them, one frame for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from partwise.capture.files import Pattern
from partwise.capture.graph import Graph
from partwise.capture.layout import Layout, Share
from partwise.capture.layouts import COORDINATOR, Layouts, lay_out_neurons
from partwise.capture.values import list_read
from partwise.distributor.plan import Plan
from partwise.errors import PlanError
from partwise.registry.gathers import Ids, compile_gathers
from partwise.remote.layout import MAX_TENSORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Neurons ``ids`` of a value that travel together; None: all of it, whole."""

    value: str
    ids: Ids | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The tensors of one frame: what ``source`` pushes to ``target`` at the end of its phase
    ``phase``."""

    source: str
    target: str
    phase: int
    pieces: list[Piece] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Operations that a part computes without waiting, once ``received`` has come; then it pushes
    ``sent``."""

    received: list[Parcel] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    sent: list[Parcel] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The phases of every part, the coordinator's too: first it has the inputs, then the results.

    ``layouts`` say who computes which neurons of each value.
    """

    plan_version: int
    phases: Mapping[str, list[Phase]]
    layouts: Layouts

    def list_parcels(self, part: str) -> list[Parcel]:
        """What ``part`` pushes in a pass, in this order."""
        return [parcel for phase in self.phases[part] for parcel in phase.sent]

    def list_targets(self, part: str) -> list[str]:
        """The parts, without the coordinator, to which ``part`` pushes."""
        targets = dict.fromkeys(parcel.target for parcel in self.list_parcels(part))
        return [target for target in targets if target != COORDINATOR]

    def local_ids(self, part: str, value: str) -> Ids:
        """The neurons of ``value`` that ``part`` has once it has received what it needs."""
        own = self.layouts.of[value].held.get(part)
        needed = self.layouts.needs.get(value, {}).get(part)
        if own is None or needed is None:
            return needed if own is None else own  # type: ignore[return-value]
        return np.union1d(own, needed)


def compile_schedule(
    graph: Graph, plan: Plan, patterns: Mapping[str, Pattern] | None = None
) -> Schedule:
    """What each part does under a verified ``plan``; ``patterns`` as `lay_out_neurons` says.

    Raises:
        PlanError: more tensors would travel at once than a frame carries.
    """
    layouts = lay_out_neurons(graph, plan, patterns or {})
    parts = [part.name for part in plan.parts]
    compiler = _Compiler(layouts, [COORDINATOR, *parts])
    compiler.begin(COORDINATOR)
    for entry in graph.inputs:
        compiler.make(entry.name, COORDINATOR)
    for node in layouts.values.graph.nodes:
        for part, share in layouts.shares[node.name].items():
            compiler.compute(part, share)
    compiler.collect(layouts.values.outputs)
    compiler.wake()
    _check_frames(compiler.phases, layouts)
    return Schedule(plan_version=plan.plan_version, phases=compiler.phases, layouts=layouts)


def _check_frames(phases: Mapping[str, list[Phase]], layouts: Layouts) -> None:
    """Refuse parcels of more tensors than a frame carries.

    Raises:
        PlanError: there is one.
    """
    for parcel in (p for listed in phases.values() for phase in listed for p in phase.sent):
        count = sum(len(layouts.values.leaves(piece.value)) for piece in parcel.pieces)
        if count > MAX_TENSORS:
            raise PlanError(
                f"{parcel.source} would send {count} tensors to {parcel.target} at once, a frame"
                f" carries {MAX_TENSORS}: cut the module at another place"
            )


def count_pushed(schedule: Schedule, batch: int) -> dict[tuple[str, str], int]:
    """Bytes of tensors that each (source, target) pushes in a pass of ``batch`` rows; those of
    headers and tables of frames come on top."""
    values, counted = schedule.layouts.values, dict[tuple[str, str], int]()
    for parcel in (p for part in schedule.phases for p in schedule.list_parcels(part)):
        pair = parcel.source, parcel.target
        for piece in parcel.pieces:
            layout = schedule.layouts.of[piece.value]
            num_bytes = values.num_bytes(piece.value, batch)
            if piece.ids is not None:
                num_bytes = num_bytes // layout.count * len(piece.ids)
            counted[pair] = counted.get(pair, 0) + num_bytes
    return counted


class _Compiler:
    """Puts operations into phases as they are computed, one part's after the other's."""

    def __init__(self, layouts: Layouts, parts: list[str]) -> None:
        self.phases: dict[str, list[Phase]] = {part: [] for part in parts}
        self._layouts = layouts
        self._gathers = {name: _gather(layouts.of[name], needs)
                         for name, needs in layouts.needs.items()}  # fmt: skip
        self._parcels: dict[tuple[str, str, int], Parcel] = {}
        self._carriers: dict[tuple[str, str], list[Parcel]] = {}  # by (value, target)
        self._received: dict[str, set[tuple[str, int]]] = {part: set() for part in parts}

    def begin(self, part: str) -> Phase:
        """Start a phase of ``part``."""
        phase = Phase()
        self.phases[part].append(phase)
        return phase

    def make(self, name: str, part: str) -> None:
        """Note that ``part`` has computed the value ``name``, in its last phase."""
        number = len(self.phases[part]) - 1
        for (source, target), ids in self._gathers.get(name, {}).items():
            if source != part:
                continue
            key = source, target, number
            if key not in self._parcels:
                parcel = Parcel(source=source, target=target, phase=number)
                self._parcels[key] = parcel
                self.phases[part][number].sent.append(parcel)
            parcel = self._parcels[key]
            is_whole = self._layouts.of[name].axis is None
            parcel.pieces.append(Piece(value=name, ids=None if is_whole else ids))
            self._carriers.setdefault((name, target), []).append(parcel)

    def compute(self, part: str, share: Share) -> None:
        """Let ``part`` compute ``share``, in a new phase if it waits for something."""
        phase = self._receive(part, list_read(share.node))
        phase.shares.append(share)
        self.make(share.node.name, part)

    def collect(self, names: list[str]) -> None:
        """Let the coordinator receive the results."""
        self._receive(COORDINATOR, names)

    def wake(self) -> None:
        """Let a part that waits for nobody know when a pass begins."""
        for part, phases in self.phases.items():
            parcel = Parcel(source=COORDINATOR, target=part, phase=0)
            is_woken = (COORDINATOR, part, 0) in self._parcels or part == COORDINATOR
            if phases and not phases[0].received and not is_woken:
                phases[0].received.append(parcel)
                self.phases[COORDINATOR][0].sent.append(parcel)

    def _receive(self, part: str, names: list[str]) -> Phase:
        """The phase of ``part`` in which these values are there."""
        lacking = []
        for name in names:
            for parcel in self._carriers.get((name, part), []):
                key = parcel.source, parcel.phase
                if key not in self._received[part]:
                    self._received[part].add(key)
                    lacking.append(parcel)
        if lacking or not self.phases[part]:
            self.begin(part).received.extend(lacking)
        return self.phases[part][-1]


def _gather(layout: Layout, needs: Mapping[str, Ids]) -> dict[tuple[str, str], Ids]:
    """For each (source, target) what is to be sent of a value."""
    if all(part in layout.held and _has(layout.held[part], ids) for part, ids in needs.items()):
        return {}
    return compile_gathers(layout.held, needs)


def _has(held: Ids, ids: Ids) -> bool:
    return held is ids or bool(np.isin(ids, held).all())
