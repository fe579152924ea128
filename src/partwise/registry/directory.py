"""Who owns any neuron of any layer under one plan, and at which address it answers.

An interval look-up in what `verify_plan` has proved. A layer is indexed when it is first asked
for, so that a directory of a large model over many servers costs nothing to make. It says where
neurons are computed; where parameters are replicated is in the plan's placements.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from partwise.distributor.plan import Member, Part, Plan, Stage
from partwise.errors import PlanError
from partwise.model import Layer, Model, NeuronKind
from partwise.remote.transport import Address

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A part that has neurons of one kind of one layer: ``ranges``, half-open and ascending.

    ``address`` is None where nobody knows it yet.
    """

    part: str
    server: str
    address: Address | None
    precision: str
    ranges: Ranges

    @property
    def num_neurons(self) -> int:
        return sum(stop - start for start, stop in self.ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where neuron ``neuron`` of the ``num_neurons`` of a kind is, under ``plan_version``.

    ``is_split``: the members of the stage share the kind and there is one holder; otherwise each
    member holds all of it, and the stage's only one does if there is but one.
    """

    plan_version: int
    layer: int
    layer_name: str
    kind: str
    neuron: int
    num_neurons: int
    is_split: bool
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """One kind in one layer: the members of its stage in the plan's order, and where they split
    it (else none) the starts of all ranges, ascending, and who has each."""

    holders: tuple[Holder, ...]
    starts: tuple[int, ...] = ()
    owners: tuple[Holder, ...] = ()

    @property
    def is_split(self) -> bool:
        return bool(self.starts)

    def find(self, neuron: int) -> tuple[Holder, ...]:
        """Who has ``neuron``."""
        if not self.is_split:
            return self.holders
        return (self.owners[bisect.bisect_right(self.starts, neuron) - 1],)


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """The neurons of ``model`` under ``plan``, which is verified. ``addresses`` by server name.

    A value; what it has indexed it keeps to itself.
    """

    plan: Plan
    model: Model
    addresses: Mapping[str, Address] = field(default_factory=dict)
    _parts: dict[str, Part] = field(init=False, repr=False, compare=False, default_factory=dict)
    _layers: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    _starts: list[int] = field(init=False, repr=False, compare=False, default_factory=list)
    _indexes: dict[tuple[int, str], _Index] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        self._parts.update((part.name, part) for part in self.plan.parts)
        self._layers.update((layer.name, i) for i, layer in enumerate(self.model.layers))
        self._starts.extend(stage.start for stage in self.plan.stages)

    @property
    def plan_version(self) -> int:
        return self.plan.plan_version

    def locate(self, layer: int | str, neuron: int, kind: str | None = None) -> Located:
        """Where ``neuron`` is. A layer is named, or numbered from 0 over all of the model, the
        embedding first; ``kind`` may be left out where the layer has but one.

        Raises:
            PlanError: there is no such layer, kind or neuron, or several kinds to choose from;
                with what there is.
        """
        number = self.find_layer(layer)
        found = self._find_kind(number, kind)
        where = f"layer {number} ({self.model.layers[number].name})"
        if not 0 <= neuron < found.count:
            raise PlanError(
                f"{where} has no {found.name} {neuron}: there are {found.count}, give 0 to"
                f" {found.count - 1}"
            )
        index = self._index(number, found)
        return Located(
            plan_version=self.plan_version,
            layer=number,
            layer_name=self.model.layers[number].name,
            kind=found.name,
            neuron=neuron,
            num_neurons=found.count,
            is_split=index.is_split,
            holders=index.find(neuron),
        )

    def find_layer(self, layer: int | str) -> int:
        """The number of a layer that is numbered or named.

        Raises:
            PlanError: there is none, with what there is.
        """
        layers = self.model.layers
        if isinstance(layer, str):
            if layer not in self._layers:
                raise PlanError(
                    f"{self.model.name} has no layer {layer!r}: its layers are called"
                    f" {layers[0].name!r} to {layers[-1].name!r}, or give a number from 0 to"
                    f" {len(layers) - 1}"
                )
            return self._layers[layer]
        if not 0 <= layer < len(layers):
            raise PlanError(
                f"{self.model.name} has no layer {layer}: it has {len(layers)}, give 0 to"
                f" {len(layers) - 1}"
            )
        return layer

    def find_stage(self, layer: int) -> Stage:
        """The stage that holds layer ``layer``."""
        return self.plan.stages[bisect.bisect_right(self._starts, layer) - 1]

    def list_owners(self, layer: int | str, kind: str) -> dict[str, Ranges]:
        """The neurons of ``kind`` in a layer that each member of its stage has, in the plan's
        order: what `compile_gathers` takes. Members that own none have no ranges.

        Raises:
            PlanError: there is no such layer or kind.
        """
        number = self.find_layer(layer)
        found = self._find_kind(number, kind)
        return {holder.part: holder.ranges for holder in self._index(number, found).holders}

    def _find_kind(self, number: int, kind: str | None) -> NeuronKind:
        layer = self.model.layers[number]
        known = {found.name: found for found in layer.neuron_kinds}
        if not known:
            parts = [member.part for member in self.find_stage(number).members]
            raise PlanError(
                f"layer {number} ({layer.name}) has no neurons that could be split:"
                f" {', '.join(parts)} {'holds' if len(parts) == 1 else 'hold'} it whole; ask for"
                " another layer"
            )
        if kind is None and len(known) == 1:
            (kind,) = known
        if kind is None or kind not in known:
            raise PlanError(_refuse_kind(kind, number, layer))
        return known[kind]

    def _index(self, number: int, kind: NeuronKind) -> _Index:
        key = number, kind.name
        if key not in self._indexes:
            self._indexes[key] = self._make_index(number, kind)
        return self._indexes[key]

    def _make_index(self, number: int, kind: NeuronKind) -> _Index:
        stage = self.find_stage(number)
        owned = [_list_ranges(member, number, kind.name) for member in stage.members]
        is_split = any(ranges is not None for ranges in owned)
        others: Ranges = () if is_split else ((0, kind.count),)
        holders = tuple(
            self._hold(member.part, others if ranges is None else ranges)
            for member, ranges in zip(stage.members, owned, strict=True)
        )
        if not is_split:
            return _Index(holders=holders)
        rows = sorted(
            ((start, holder) for holder in holders for start, _ in holder.ranges),
            key=lambda row: row[0],
        )
        starts, owners = zip(*rows, strict=True)
        return _Index(holders=holders, starts=starts, owners=owners)

    def _hold(self, name: str, ranges: Ranges) -> Holder:
        part = self._parts[name]
        return Holder(
            part=part.name,
            server=part.server,
            address=self.addresses.get(part.server),
            precision=part.precision,
            ranges=ranges,
        )


def _list_ranges(member: Member, layer: int, kind: str) -> Ranges | None:
    """What a member owns of ``kind`` in a layer; None where its stage does not split that."""
    shares = [s.ranges for s in member.neurons if s.kind == kind and s.is_about(layer)]
    return tuple(sorted(chain.from_iterable(shares))) if shares else None


def _refuse_kind(kind: str | None, number: int, layer: Layer) -> str:
    known = ", ".join(found.name for found in layer.neuron_kinds)
    where = f"layer {number} ({layer.name})"
    if kind is None:
        return f"{where} has several kinds of neurons: say which of {known}"
    return f"{where} has no neurons of kind {kind!r}: give one of {known}"
