"""A plan over servers that are taken as equal, in what its parts hold and read: as text and JSON.

It predicts no time: for that `partwise plan` wants a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partwise.distributor import Plan
    from partwise.model.description import Model

HEADERS = ("server", "part", "layers", "weights GiB", "KV GiB", "read per token %")


def describe_bytes(plan: Plan, model: Model, question: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as a JSON document, in what its parts hold and read; ``question`` has the tokens
    of a sequence, whether they are assumed, and the number of sequences."""
    from partwise.cli.planning.buffers import describe_buffers
    from partwise.distributor import measure_holding

    holdings = {part.name: measure_holding(plan, model, part.name) for part in plan.parts}
    read_bytes = sum(holding.read_bytes_per_token for holding in holdings.values())
    parts = []
    for part in plan.parts:
        stage, holding = plan.stage_of(part.name), holdings[part.name]
        parts.append(
            {
                "server": part.server,
                "part": part.name,
                "start_layer": stage.start,
                "stop_layer": stage.stop,
                "layers": model.describe_range(stage.start, stage.stop),
                "weight_bytes": holding.weight_bytes,
                "kv_bytes": holding.kv_bytes_per_token
                * question["context_tokens"]
                * question["num_sequences"],
                "read_bytes_per_token": holding.read_bytes_per_token,
                "read_share_percent": 100 * holding.read_bytes_per_token / read_bytes,
                "buffers": describe_buffers(plan, model, part.name, question["context_tokens"]),
            }
        )
    return {
        "model": model.name,
        "strategy": plan.strategy,
        "precision": plan.parts[0].precision,
        **question,
        "parts": parts,
        "weight_bytes": sum(row["weight_bytes"] for row in parts),
        "kv_bytes": sum(row["kv_bytes"] for row in parts),
        "read_bytes_per_token": read_bytes,
        "replicated": describe_replicated(plan, model),
    }


def describe_replicated(plan: Plan, model: Model) -> list[dict[str, Any]]:
    """The parameters held whole by several parts, with what their copies cost."""
    from partwise.distributor.workload import ELEMENT_BYTES

    elements = {p.name: p.num_elements for p in model.parameters}
    return [
        {
            "parameter": placement.parameter,
            "parts": list(placement.parts),
            "extra_weight_bytes": sum(
                int(elements[placement.parameter] * ELEMENT_BYTES[plan.part(part).precision])
                for part in placement.parts[1:]
            ),
        }
        for placement in plan.placements
        if placement.rule == "replicated"
    ]


def render_bytes(document: dict[str, Any]) -> str:
    """The plan as text for people: its table, its buffers, then its notes."""
    from partwise.cli.format import format_table
    from partwise.cli.planning.buffers import render_buffers

    rows = [
        (row["server"], row["part"], row["layers"], *_amounts(row, row["read_share_percent"]))
        for row in document["parts"]
    ]
    rows.append(("total", "", "", *_amounts(document, 100.0)))
    sequences = document["num_sequences"]
    assumed = " (assumed; set --context)" if document["is_context_assumed"] else ""
    kv_format = "bf16" if document["precision"] == "bf16" else "fp32"
    header = (
        f"{document['model']} in {len(document['parts'])} parts, {document['precision']} weights,"
        f" {kv_format} KV cache for {sequences} {'sequence' if sequences == 1 else 'sequences'} of"
        f" {document['context_tokens']:,} tokens{assumed}"
    )
    notes = [render_buffers(document["parts"])]
    notes += [render_replicated(row) for row in document["replicated"]]
    return "\n\n".join(filter(None, (header, format_table(HEADERS, rows), "\n".join(notes))))


def render_replicated(row: dict[str, Any]) -> str:
    """A line on a parameter that several parts hold."""
    from partwise.cli.format import format_bytes

    return (
        f"note: {row['parameter']} is tied and held by {' and '.join(row['parts'])}, which costs"
        f" {format_bytes(row['extra_weight_bytes'])} more"
    )


def _amounts(row: dict[str, Any], share_percent: float) -> tuple[str, str, str]:
    from partwise.cli.format import GIB

    weights, kv = row["weight_bytes"] / GIB, row["kv_bytes"] / GIB
    return f"{weights:,.3f}", f"{kv:,.3f}", f"{share_percent:.1f}"
