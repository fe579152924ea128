"""The strategy ``type``: what each server owns is given by kind, e.g. attention here, MLP there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partwise.distributor.build import build_plan, name_parts
from partwise.distributor.by_count import choose_granules
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import plan_or_say
from partwise.distributor.shares import Ranges, share_out, split_equally
from partwise.errors import Infeasible, PlanError
from partwise.model.description import Layer, Model, NeuronKind
from partwise.model.families.family import EXPERT, KV_GROUP, MLP_UNIT

NAME = "type"
HELP = "by kind: attention, mlp, embedding, head, ... to the servers that each is given"

WORDS = {"attention": (KV_GROUP,), "mlp": (MLP_UNIT, EXPERT)}
"""Other words for neuron kinds; of several those that the model has."""

Types = Mapping[str, tuple[str, ...]]
"""Servers by neuron kind or layer kind."""


def plan(problem: Problem) -> Plan:
    """Each kind on its servers, shared out by count where these are several.

    Options: ``types``, a server or a list of them by neuron kind (or ``attention``, ``mlp``)
    and by layer kind (``embedding``, ``block``, ``norm``, ``head``); a neuron kind goes before
    the layer kind around it. What is not named goes with what is beside it. Layers that the
    same servers hold are one stage; where a server is named for layers apart from each other,
    all between them are one stage.

    Raises:
        PlanError: a kind that the model does not have, or an unknown server.
        Infeasible: more servers than a layer has neurons of the kind, tied layers of one stage
            on different servers, or too little memory.
    """
    return plan_or_say(problem, _find, can_grow=False)


def _find(problem: Problem) -> Plan:
    model, granules = problem.model, choose_granules(problem)
    types = read_types(model, problem.options.get("types"), problem.servers)
    holders = find_holders(model, types)
    spans = merge_runs(holders)
    used = [_order(holders[start:stop], problem.servers) for start, stop in spans]
    parts = name_parts([server for servers in used for server in servers])
    stages = tuple(
        _build_stage(
            model, types, holders, span, {server: parts[server] for server in servers}, granules
        )
        for span, servers in zip(spans, used, strict=True)
    )
    return build_plan(problem, NAME, stages, list(parts))


def read_types(model: Model, given: Any, servers: Sequence[str]) -> Types:
    """The servers of each kind named.

    Raises:
        PlanError: see `plan`.
    """
    known = {str(layer.kind) for layer in model.layers}
    known |= {kind.name for layer in model.layers for kind in layer.neuron_kinds}
    if not isinstance(given, Mapping) or not given:
        raise PlanError(f"types are {given!r}: give servers by kind, of {', '.join(sorted(known))}")
    types: dict[str, tuple[str, ...]] = {}
    for word, value in given.items():
        kinds = [kind for kind in WORDS.get(word, (word,)) if kind in known]
        names = _read_names(word, value)
        if not kinds:
            raise PlanError(f"{model.name} has no kind {word!r}: it has {', '.join(sorted(known))}")
        if any(kind in types for kind in kinds) or not names or len(set(names)) < len(names):
            raise PlanError(f"the servers of {word!r} are {value!r}: name each once, at least 1")
        for name in names:
            if name not in servers:
                raise PlanError(
                    f"{word!r} goes to the unknown server {name!r}: known are {', '.join(servers)}"
                )
        types |= dict.fromkeys(kinds, names)
    return types


def _read_names(word: Any, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise PlanError(f"the servers of {word!r} are {value!r}: give a name, or a list of them")
    return tuple(names)


def find_holders(model: Model, types: Types) -> list[frozenset[str]]:
    """The servers that hold something of each layer.

    A layer of which nothing is named goes with the one before it, or with the first named.
    """
    named = [_named_servers(layer, types) for layer in model.layers]
    last = next(servers for servers in named if servers)
    holders = []
    for servers in named:
        last = servers or last
        holders.append(last)
    return holders


def merge_runs(holders: Sequence[frozenset[str]]) -> list[tuple[int, int]]:
    """The (start, stop) of stages, so that each server is in one of them."""
    first: dict[str, int] = {}
    for i, servers in enumerate(holders):
        for server in servers:
            first.setdefault(server, i)
    starts: list[int] = []
    for i, servers in enumerate(holders):
        if i == 0 or servers != holders[i - 1]:
            starts.append(i)
        while starts[-1] > min(first[server] for server in servers):
            starts.pop()
    return list(zip(starts, [*starts[1:], len(holders)], strict=True))


def _named_servers(layer: Layer, types: Types) -> frozenset[str]:
    names = [kind.name for kind in layer.neuron_kinds]
    whole = types.get(layer.kind, ())
    if names and all(name in types for name in names):
        whole = ()
    return frozenset(whole).union(*(types.get(name, ()) for name in names))


def _order(holders: Sequence[frozenset[str]], servers: Sequence[str]) -> list[str]:
    held = frozenset().union(*holders)
    return [server for server in servers if server in held]


def _build_stage(
    model: Model,
    types: Types,
    holders: Sequence[frozenset[str]],
    span: tuple[int, int],
    parts: Mapping[str, str],
    granules: Mapping[str, int],
) -> Stage:
    tied = find_tied(model, span)

    def find_owners(i: int, kind: NeuronKind) -> Sequence[str]:
        own = types.get(kind.name) or types.get(model.layers[i].kind)
        if i not in tied:
            return own or tuple(holders[i])
        other = types.get(kind.name) or types.get(model.layers[tied[i]].kind)
        if own and other and set(own) != set(other):
            raise Infeasible(
                f"{model.layers[i].name} and {model.layers[tied[i]].name} are tied and in one"
                f" stage, but for {', '.join(own)} and for {', '.join(other)}: name the same"
                " servers for both"
            )
        return own or other or tuple(parts)

    def choose(i: int, kind: NeuronKind) -> Sequence[Ranges]:
        owners = [server for server in parts if server in find_owners(i, kind)]
        shares = split_equally(len(owners), granules)(i, kind)
        ranges = dict(zip(owners, shares, strict=True))
        return [ranges.get(server, ()) for server in parts]

    members = share_out(model, span, list(parts.values()), choose, granules)
    return Stage(start=span[0], stop=span[1], members=members)


def find_tied(model: Model, span: tuple[int, int]) -> dict[int, int]:
    """Layers of ``span`` with a parameter that is tied to one of another of them, both ways."""
    layer_of = {p.name: i for i in range(*span) for p in model.layers[i].parameters}
    pairs = [
        (i, layer_of[p.alias_of])
        for i in range(*span)
        for p in model.layers[i].parameters
        if p.alias_of in layer_of
    ]
    return dict(pairs) | {other: i for i, other in pairs}
