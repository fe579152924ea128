"""The strategy ``layers``: which server holds which blocks is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partwise.distributor.build import build_plan, whole_stages
from partwise.distributor.claims import check_claims
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import plan_or_say
from partwise.errors import PlanError
from partwise.model.description import LayerKind, Model

NAME = "layers"
HELP = "by layers: the blocks that each server is given"


def plan(problem: Problem) -> Plan:
    """A stage for each server, of the blocks that it is given.

    Options: ``layers``, by server the blocks ``"start:stop"`` or ``(start, stop)``, counted
    from the first block. The embedding goes with the first block, norm and head with the
    last. Servers not named stay unused.

    Raises:
        PlanError: blocks out of range, claimed twice or held by nobody, or an unknown server.
        Infeasible: too little memory.
    """
    return plan_or_say(problem, _find, can_grow=False)


def _find(problem: Problem) -> Plan:
    runs = assign_blocks(problem.model, problem.options.get("layers"), problem.servers)
    return build_plan(problem, NAME, whole_stages(runs), [server for server, _, _ in runs])


def assign_blocks(model: Model, given: Any, servers: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """(server, start, stop) over all layers of the model, in the order of the blocks.

    Raises:
        PlanError: see `plan`.
    """
    if not isinstance(given, Mapping) or not given:
        raise PlanError(f"layers are {given!r}: give the blocks of each server, e.g. 0:10")
    for server, blocks in given.items():
        if server not in servers:
            raise PlanError(
                f"blocks {blocks} go to the unknown server {server!r}: known are"
                f" {', '.join(servers)}"
            )
    runs = sorted((*_read_range(server, blocks, model), server) for server, blocks in given.items())
    check_claims(runs, model.num_blocks, "blocks", words=("are", "held", "them"))
    first = next(i for i, layer in enumerate(model.layers) if layer.kind is LayerKind.BLOCK)
    last = len(runs) - 1
    return [
        (
            server,
            0 if i == 0 else first + start,
            len(model.layers) if i == last else first + stop,
        )
        for i, (start, stop, server) in enumerate(runs)
    ]


def _read_range(server: str, blocks: Any, model: Model) -> tuple[int, int]:
    try:
        start, stop = map(int, blocks.split(":")) if isinstance(blocks, str) else blocks
        if not isinstance(start, int) or not isinstance(stop, int):
            raise TypeError(blocks)
    except (TypeError, ValueError) as exc:
        raise PlanError(
            f"the blocks of server {server!r} are {blocks!r}: give start:stop, e.g. 0:10 (blocks"
            " of one server are consecutive)"
        ) from exc
    if not 0 <= start < stop <= model.num_blocks:
        raise PlanError(
            f"the blocks of server {server!r} are {start}:{stop}, out of range: {model.name} has"
            f" blocks 0:{model.num_blocks}"
        )
    return start, stop
