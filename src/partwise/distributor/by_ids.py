"""The strategy ``ids``: the neurons that each server owns are listed, by layer and kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partwise.distributor.by_count import choose_granules, plan_shared
from partwise.distributor.id_lists import check_granule, check_owned, read_ranges
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import plan_or_say
from partwise.distributor.shares import Ranges, split_equally
from partwise.errors import PlanError
from partwise.model.description import Layer, Model, NeuronKind

NAME = "ids"
HELP = "by neurons: the identifiers of each kind and layer that each server is given"

Owned = Mapping[str, Ranges]
"""Ranges by server."""


def plan(problem: Problem) -> Plan:
    """One stage of all layers, its neurons owned as ``ids`` say.

    Options: ``ids``, by layer (its name, ``"start:stop"`` of the model's layers, or ``"*"`` for
    all; a later entry wins), then by kind, then by server: ``"0:3,7"``, or a list of
    identifiers and ``(start, stop)`` pairs. A kind that no entry names is shared out by count.
    Servers not named stay unused.

    Raises:
        PlanError: an unknown layer, kind or server, or identifiers that are no numbers, out of
            range, claimed twice, owned by nobody or cut where the precision does not allow it.
        Infeasible: too little memory, or more servers named than a kind that no entry names has
            neurons.
    """
    return plan_or_say(problem, _find, can_grow=False)


def _find(problem: Problem) -> Plan:
    model, granules = problem.model, choose_granules(problem)
    owned = read_ids(model, problem.options.get("ids"), problem.servers)
    for (i, name), table in owned.items():
        where = f"{name} of {model.layers[i].name}"
        check_granule(table, find_kind(model.layers[i], name).count, granules.get(name, 1), where)
    named = {server for table in owned.values() for server in table}
    servers = [server for server in problem.servers if server in named]
    equal = split_equally(len(servers), granules)

    def choose(layer: int, kind: NeuronKind) -> Sequence[Ranges]:
        table = owned.get((layer, kind.name))
        if table is None:
            table = dict(zip(servers, equal(layer, kind), strict=True))
        return [table.get(server, ()) for server in problem.servers]

    return plan_shared(problem, NAME, choose, granules)


def read_ids(model: Model, given: Any, servers: Sequence[str]) -> dict[tuple[int, str], Owned]:
    """What each server owns, by layer (index) and kind; each kind there is wholly owned.

    Raises:
        PlanError: see `plan`.
    """
    if not isinstance(given, Mapping) or not given:
        raise PlanError(f"ids are {given!r}: give neurons by layer, kind and server")
    owned: dict[tuple[int, str], Owned] = {}
    for selector, by_kind in given.items():
        layers = select_layers(model, str(selector))
        if not isinstance(by_kind, Mapping):
            raise PlanError(f"the ids of layers {selector!r} are {by_kind!r}: give them by kind")
        for kind, by_server in by_kind.items():
            table = _read_table(f"{kind} of layers {selector!r}", by_server, servers)
            found = [(i, k) for i in layers for k in model.layers[i].neuron_kinds if k.name == kind]
            if not found:
                kinds = {k.name: None for i in layers for k in model.layers[i].neuron_kinds}
                raise PlanError(
                    f"layers {selector!r} have no neurons of kind {kind!r}: they have"
                    f" {', '.join(kinds) or 'none'}"
                )
            owned |= {(i, kind): table for i, _ in found}
    for (i, name), table in owned.items():
        check_owned(table, find_kind(model.layers[i], name), model.layers[i].name)
    return owned


def find_kind(layer: Layer, name: str) -> NeuronKind:
    """The kind of that name, which the layer has."""
    return next(kind for kind in layer.neuron_kinds if kind.name == name)


def select_layers(model: Model, selector: str) -> list[int]:
    """The layers (by index) that ``selector`` means: a name, ``start:stop``, or ``*``.

    Raises:
        PlanError: it means none.
    """
    num_layers = len(model.layers)
    if selector == "*":
        return list(range(num_layers))
    named = [i for i, layer in enumerate(model.layers) if layer.name == selector]
    if named:
        return named
    bounds = selector.split(":")
    if len(bounds) == 2 and all(bound.isdecimal() for bound in bounds):
        start, stop = map(int, bounds)
        if start < stop <= num_layers:
            return list(range(start, stop))
    raise PlanError(
        f"no layers are meant by {selector!r}: give a layer's name"
        f" ({model.layers[0].name}, ...), a range within 0:{num_layers}, or *"
    )


def _read_table(where: str, by_server: Any, servers: Sequence[str]) -> Owned:
    if not isinstance(by_server, Mapping):
        raise PlanError(f"{where} is {by_server!r}: give neurons by server")
    for server in by_server:
        if server not in servers:
            raise PlanError(
                f"{where} goes to the unknown server {server!r}: known are {', '.join(servers)}"
            )
    return {
        server: read_ranges(ids, f"{where} for server {server!r}")
        for server, ids in by_server.items()
    }
