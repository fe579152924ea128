"""From stages to a plan: parts, links, placements, proof, and whether the servers can hold it.

What every strategy does last. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from partwise.distributor.footprint import part_footprint
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Link, Member, ModelIdentity, Part, Plan, Precision, Stage
from partwise.distributor.pricing import split_passes
from partwise.distributor.problem import Problem
from partwise.distributor.runners import runner_for
from partwise.distributor.senders import FindSeconds, join_stages
from partwise.distributor.transfer import hop_bytes
from partwise.distributor.verify import verify_plan
from partwise.errors import Unheld
from partwise.model.description import Model

GIB = 1 << 30


def say_bytes(num_bytes: float) -> str:
    """Bytes for people, in the largest unit that leaves a whole part."""
    units = ("GiB", GIB), ("MiB", GIB >> 10), ("KiB", GIB >> 20)
    unit, size = next((u for u in units if num_bytes >= u[1]), units[-1])
    return f"{num_bytes / size:,.2f} {unit}"


def identify(model: Model) -> ModelIdentity:
    """What a plan says of the model it is for."""
    return ModelIdentity(
        name=model.name,
        architecture=model.architecture,
        fingerprint=model.fingerprint,
        num_layers=len(model.layers),
        version=model.version,
    )


def name_parts(servers: Sequence[str]) -> dict[str, str]:
    """The part that each of ``servers`` holds: part0, part1, ... in their order."""
    return {server: f"part{i}" for i, server in enumerate(servers)}


def whole_stages(runs: Sequence[tuple[str, int, int]]) -> tuple[Stage, ...]:
    """One stage for each (server, start, stop), held whole by the server's part.

    Servers without layers get none; the others are named as `name_parts` names them.
    """
    used = [run for run in runs if run[1] < run[2]]
    parts = name_parts([server for server, _, _ in used])
    return tuple(
        Stage(start=start, stop=stop, members=(Member(part=parts[server]),))
        for server, start, stop in used
    )


def build_plan(
    problem: Problem,
    strategy: str,
    stages: tuple[Stage, ...],
    servers: Sequence[str],
    notes: Sequence[str] = (),
) -> Plan:
    """The verified plan of ``stages``, whose parts are those of ``servers`` (`name_parts`).

    Raises:
        Unheld: parts need more memory than their servers offer.
    """
    precision = cast("Precision", problem.workload.precision)
    plan = Plan(
        strategy=strategy,
        model=identify(problem.model),
        stages=stages,
        parts=tuple(
            Part(
                name=part,
                server=server,
                precision=precision,
                runner=runner_for(precision),
                mlp_sparsity=problem.workload.mlp_sparsity,
            )
            for server, part in name_parts(servers).items()
        ),
        links=_join_servers(problem, stages, servers),
        placements=place_parameters(problem.model, stages),
        notes=tuple(notes),
    )
    verify_plan(plan, problem.model, problem.servers)
    check_memory(plan, problem)
    return plan


def join(stages: Sequence[Stage], find_s: FindSeconds | None = None) -> tuple[Link, ...]:
    """The links from every member of a stage to every member of the next (`join_stages`)."""
    return tuple(
        link for before, after in pairwise(stages) for link in join_stages(before, after, find_s)
    )


def _join_servers(
    problem: Problem, stages: Sequence[Stage], servers: Sequence[str]
) -> tuple[Link, ...]:
    """The links of a plan whose parts are those of ``servers``."""
    server_of = {part: server for server, part in name_parts(servers).items()}
    rows, _ = split_passes(problem.workload, len(stages))
    num_bytes = hop_bytes(problem.model, rows, "fp32")

    def find_s(source: str, target: str) -> float:
        speed = problem.cluster.link(server_of[source], server_of[target])
        return speed.transfer_s(num_bytes)

    return join(stages, find_s)


def check_memory(plan: Plan, problem: Problem) -> None:
    """Refuse a plan of which parts do not fit their servers.

    Raises:
        Unheld: there are such parts, with what the worst of them lacks and all together.
    """
    short = []
    for part in plan.parts:
        needed = part_footprint(plan, problem.model, part.name, problem.workload).total_bytes
        offered = problem.cluster.server(part.server).memory_bytes
        if needed > offered:
            short.append((needed - offered, needed, offered, part))
    if not short:
        return
    missing = sum(row[0] for row in short)
    _, needed, offered, part = max(short, key=lambda row: row[0])
    stage = plan.stage_of(part.name)
    where = problem.model.describe_range(stage.start, stage.stop)
    others = len(short) - 1
    more = f", and {others} other {'part lacks' if others == 1 else 'parts lack'} memory"
    raise Unheld(
        f"{part.name} needs {say_bytes(needed)} for its share of {where}, but server"
        f" {part.server!r} offers {say_bytes(offered)}{more if others else ''}: needed is"
        f" {say_bytes(missing)} more{' in all' if others else ''}"
    )
