"""Who computes what of a graph under a plan, operation by operation: shares, layouts and needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from partwise.capture.describe import Section, list_sections
from partwise.capture.files import Pattern
from partwise.capture.graph import Graph, Node
from partwise.capture.heads import Heads, replace_nodes, write_out
from partwise.capture.layout import WHOLE, Layout, Place, Share
from partwise.capture.spread import find_spread
from partwise.capture.values import Values, list_read
from partwise.capture.weighted import Weighted
from partwise.distributor.plan import Plan, Stage
from partwise.registry.gathers import Ids, list_ids

COORDINATOR = "coordinator"
"""The part that has the inputs and wants the results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """For each of ``values`` who has which neurons of it (``of``) and who needs which (``needs``);
    for each operation, in the order of computing, what each part computes (``shares``). The
    operations are those of ``values.graph``, in which attention whose heads are shared is written
    out."""

    values: Values
    of: dict[str, Layout] = field(default_factory=dict)
    needs: dict[str, dict[str, Ids]] = field(default_factory=dict)
    shares: dict[str, dict[str, Share]] = field(default_factory=dict)


def lay_out_neurons(graph: Graph, plan: Plan, patterns: Mapping[str, Pattern]) -> Layouts:
    """Who computes, has and needs what under a verified ``plan``; ``patterns`` by weight say which
    (output, input) pairs are not zero, all of them where there is none."""
    stages = _list_stages(graph, plan)
    heads: dict[str, Weighted] = {}
    replaced: dict[str, list[Node]] = {}
    for section, _, owned in stages:
        if isinstance(section.split, Heads) and owned is not None:
            nodes, weighted = write_out(section.split)
            heads |= weighted
            replaced |= {section.split.node.name: nodes, section.split.result.name: []}
    found = Layouts(values=Values(replace_nodes(graph, replaced)))
    for entry in graph.inputs:
        found.of[entry.name] = Layout(held={COORDINATOR: WHOLE})
    for section, members, owned in stages:
        place = Place(
            values=found.values,
            members=members,
            layouts=found.of,
            owned=owned,
            kind=section.neuron_kind.name if section.neuron_kind else "",
            reads=lambda weight, axis, ids: _find_read(patterns, weight, axis, ids),
            heads=heads,
        )
        for node in section.nodes:
            for new in replaced.get(node.name, [node]):
                _add(found, place, new)
    for name in found.values.outputs:
        _need(found, name, COORDINATOR, found.of[name].every)
    return found


def _list_stages(
    graph: Graph, plan: Plan
) -> list[tuple[Section, tuple[str, ...], dict[str, Ids] | None]]:
    """Each layer with the members of its stage, and which of its neurons each owns."""
    stages = []
    for i, section in enumerate(list_sections(graph)):
        stage = next(stage for stage in plan.stages if stage.start <= i < stage.stop)
        members = tuple(member.part for member in stage.members)
        stages.append((section, members, _find_owned(stage, i, section)))
    return stages


def _add(found: Layouts, place: Place, node: Node) -> None:
    """Note how the members of a stage compute ``node``."""
    # A part that is alone has all neurons: it calls what the module calls.
    spread = find_spread(node, place) if len(place.members) > 1 else None
    if spread is None:
        found.shares[node.name] = {member: Share(node=node) for member in place.members}
        found.of[node.name] = Layout(held=dict.fromkeys(place.members, WHOLE))
    else:
        found.shares[node.name] = dict(spread.shares)
        held = {m: s.outputs for m, s in spread.shares.items() if s.outputs is not None}
        found.of[node.name] = Layout(axis=spread.axis, count=spread.count, held=held)
    for member, share in found.shares[node.name].items():
        for name in list_read(share.node):
            layout, want = found.of[name], share.wants.get(name)
            is_some = want is not None and want.axis == layout.axis
            _need(found, name, member, want.ids if is_some and want else layout.every)


def _need(found: Layouts, name: str, part: str, ids: Ids) -> None:
    needs = found.needs.setdefault(name, {})
    needs[part] = np.union1d(needs[part], ids) if part in needs else ids


def _find_owned(stage: Stage, layer: int, section: Section) -> dict[str, Ids] | None:
    """The neurons of a layer by member; None where its members do not split them."""
    kind = section.neuron_kind
    if kind is None or len(stage.members) == 1:
        return None
    shares = [
        (member.part, share)
        for member in stage.members
        for share in member.neurons
        if share.is_about(layer) and share.kind == kind.name
    ]
    if not shares:
        return None
    owned: dict[str, Ids] = {
        member.part: np.empty(0, np.int64) for member in stage.members
    }  # fmt: skip
    for part, share in shares:
        if share.ranges:
            owned[part] = np.union1d(owned[part], list_ids(share.ranges))
    return owned


def _find_read(patterns: Mapping[str, Pattern], weight: str, axis: int, ids: Ids) -> Ids | None:
    """The inputs that the outputs ``ids``, along ``axis`` of ``weight``, read; None: all."""
    if weight not in patterns:
        return None
    is_used = patterns[weight].take(ids, axis).any(axis)
    return np.flatnonzero(is_used).astype(np.int64)
