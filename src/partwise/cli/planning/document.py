"""Plans for a cluster as a JSON document: what each part holds and costs, and the verdict."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partwise.distributor.compare import Candidate, Planned
    from partwise.distributor.cost import Prediction
    from partwise.distributor.plan import Link, Plan
    from partwise.distributor.pricing import PartCost
    from partwise.distributor.problem import Problem
    from partwise.distributor.verdict import Verdict


def describe_question(problem: Problem, args: argparse.Namespace) -> dict[str, Any]:
    """What was asked, whatever the number of streams."""
    workload = problem.workload
    return {
        "model": problem.model.name,
        "cluster": args.cluster,
        "servers": list(problem.servers),
        "context_tokens": workload.context_tokens,
        "is_context_assumed": args.context is None,
        "num_sequences": workload.sequences,
        "precision": workload.precision,
        "is_training": workload.is_training,
        "has_checkpointing": workload.has_checkpointing,
    }


def describe_planned(problem: Problem, strategy: str, planned: Planned) -> dict[str, Any]:
    """A plan, what it is expected to do, and whether it beats one machine.

    ``strategy`` was asked for; the plan names the one that it took over from, if it did.
    """
    from partwise.cli.planning.equal import describe_replicated

    plan = planned.plan
    costs = {cost.part: cost for cost in planned.prediction.parts}
    replicated = describe_replicated(plan, problem.model)
    tied = {placement.of for placement in plan.placements}
    return {
        "streams": problem.workload.streams,
        "strategy": strategy,
        "made_by": plan.strategy,
        "num_stages": len(plan.stages),
        "parts": [_describe_part(problem, plan, costs[part.name]) for part in plan.parts],
        "links": [_describe_link(problem, plan, link) for link in plan.links],
        "expected": describe_prediction(planned.prediction),
        "beats_one_machine": [describe_verdict(verdict) for verdict in planned.verdicts],
        "notes": list(plan.notes),
        "tied": [row for row in replicated if row["parameter"] in tied],
        "replicated_weight_bytes": sum(row["extra_weight_bytes"] for row in replicated),
    }


def describe_comparison(
    problem: Problem, goal: str, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """All candidates, in their order: best by ``goal`` first."""
    return {
        "goal": goal,
        "streams": problem.workload.streams,
        "candidates": [_describe_candidate(candidate) for candidate in candidates],
    }


def describe_prediction(prediction: Prediction) -> dict[str, Any]:
    """What is expected of all parts together."""
    fields = asdict(prediction)
    del fields["parts"]
    return fields


def describe_verdict(verdict: Verdict) -> dict[str, Any]:
    """One verdict, and the words for it."""
    return {
        "measure": verdict.measure,
        "streams": verdict.streams,
        "is_faster": verdict.beats_one_machine,
        "is_one_machine": verdict.is_one_machine,
        "speedup": verdict.speedup,
        "verdict": str(verdict),
    }


def _describe_candidate(candidate: Candidate) -> dict[str, Any]:
    prediction, planned = candidate.prediction, candidate.planned
    return {
        "name": candidate.name,
        "machine": prediction.parts[0].server if prediction and not planned else None,
        "made_by": planned.plan.strategy if planned else None,
        "num_servers": None if prediction is None else len(prediction.parts),
        "num_stages": None if planned is None else len(planned.plan.stages),
        "expected": None if prediction is None else describe_prediction(prediction),
        "beats_one_machine": [describe_verdict(v) for v in planned.verdicts] if planned else [],
        "notes": list(planned.plan.notes) if planned else [],
        "obstacle": candidate.obstacle or None,
    }


def _describe_link(problem: Problem, plan: Plan, link: Link) -> dict[str, Any]:
    from partwise.distributor.codecs import explain_codec

    source, target = plan.part(link.source).server, plan.part(link.target).server
    return {
        "source": link.source,
        "target": link.target,
        "codec": link.codec,
        "why": explain_codec(plan, problem, link),
        "bandwidth_bytes_per_s": problem.cluster.link(source, target).bandwidth_bytes_per_s,
    }


def _describe_part(problem: Problem, plan: Plan, cost: PartCost) -> dict[str, Any]:
    from partwise.cli.planning.buffers import describe_buffers
    from partwise.distributor.ownership import measure_ownership
    from partwise.distributor.slowdown import name_bound

    workload = problem.workload
    stage, part = plan.stage_of(cost.part), plan.part(cost.part)
    owned = measure_ownership(plan, problem.model, part.name)
    return {
        "server": part.server,
        "part": part.name,
        "start_layer": stage.start,
        "stop_layer": stage.stop,
        "layers": problem.model.describe_range(stage.start, stage.stop),
        "precision": part.precision,
        "mlp_sparsity": part.mlp_sparsity,
        "neurons_percent": {kind: 100 * share for kind, share in owned.by_kind.items()},
        "neuron_weights_percent": 100 * owned.of_weights,
        "memory_bytes": cost.memory_bytes,
        "server_memory_bytes": problem.cluster.server(part.server).memory_bytes,
        "working_set_bytes": cost.working_set_bytes,
        "cache_bytes": cost.cache_bytes,
        "pass_s": cost.busy_s,
        "compute_s": cost.compute_s,
        "exchange_s": cost.exchange_s,
        "hop_s": cost.hop_s,
        "hop_bytes": cost.hop_bytes,
        "input_codecs": sorted({k.codec for k in plan.links if k.target == part.name}),
        "bound_by": name_bound(cost),
        "buffers": []
        if workload.is_training
        else describe_buffers(plan, problem.model, part.name, workload.context_tokens),
    }
