"""`partwise plan`: how a model would be cut over equal servers, from its file headers alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.errors import PlanError, UsageError

if TYPE_CHECKING:
    from partwise.distributor import Plan
    from partwise.model.description import Model

NAME = "plan"
HELP = "cut a model into parts, balanced by the bytes that a token reads; reads no weights"
EXAMPLES = (
    "partwise plan models/SmolLM2-135M-Instruct --parts 3",
    "partwise plan models/SmolLM2-135M-Instruct --servers 10.0.0.5:7070,lab-2:7070 --out plan.json",
)

DEFAULT_CONTEXT_TOKENS = 4096
"""Assumed where none is given: models promise contexts far longer than most are used with."""

HEADERS = ("server", "part", "layers", "weights GiB", "KV GiB", "read per token %")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise plan``."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a Hugging Face model directory")
    servers = parser.add_mutually_exclusive_group(required=True)
    servers.add_argument("--parts", metavar="N", type=int, help="how many servers of this machine")
    servers.add_argument(
        "--servers", metavar="HOST:PORT,...", help="servers that listen, a part each, in order"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the plan to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--context",
        metavar="TOKENS",
        type=int,
        help="tokens of each sequence for the KV cache (default: the model's context,"
        f" {DEFAULT_CONTEXT_TOKENS} at most)",
    )
    parser.add_argument(
        "--sequences", metavar="S", type=int, default=1, help="sequences at a time (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Print a plan, and write it where asked."""
    from partwise.distributor import balance_layers, encode_plan
    from partwise.model import open_model

    for option in ("parts", "context", "sequences"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UsageError(f"--{option} is {value}, it must be at least 1: give 1 or more")
    model = open_model(args.model)
    context_tokens = args.context or min(model.context_tokens, DEFAULT_CONTEXT_TOKENS)
    if context_tokens > model.context_tokens:
        raise UsageError(
            f"--context is {context_tokens}, {model.name} reads {model.context_tokens} tokens:"
            f" give {model.context_tokens} or fewer"
        )
    plan = balance_layers(model, name_servers(args))
    document = describe(plan, model, context_tokens, args.sequences)
    if args.out is not None:
        _write(args.out, encode_plan(plan))
    print(json.dumps(document, indent=1) if args.json else render(document))
    for row in document["replicated"]:
        print(render_note(row), file=sys.stderr)
    return 0


def name_servers(args: argparse.Namespace) -> list[str]:
    """What the plan calls its servers, as `partwise generate` will with the same options.

    Raises:
        UsageError: --servers is no list of addresses that reach each other.
    """
    if args.servers is None:
        return [f"local-{i}" for i in range(args.parts)]
    from partwise.engine.prepared import read_addresses

    return list(read_addresses(args.servers.split(",")))


def describe(plan: Plan, model: Model, context_tokens: int, num_sequences: int) -> dict[str, Any]:
    """The plan as a JSON document, in what its parts hold and read."""
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
                "kv_bytes": holding.kv_bytes_per_token * context_tokens * num_sequences,
                "read_bytes_per_token": holding.read_bytes_per_token,
                "read_share_percent": 100 * holding.read_bytes_per_token / read_bytes,
            }
        )
    return {
        "model": model.name,
        "strategy": plan.strategy,
        "precision": plan.parts[0].precision,
        "context_tokens": context_tokens,
        "num_sequences": num_sequences,
        "parts": parts,
        "weight_bytes": sum(row["weight_bytes"] for row in parts),
        "kv_bytes": sum(row["kv_bytes"] for row in parts),
        "read_bytes_per_token": read_bytes,
        "replicated": _describe_replicated(plan, model),
    }


def _describe_replicated(plan: Plan, model: Model) -> list[dict[str, Any]]:
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


def render(document: dict[str, Any]) -> str:
    """The plan as text for people."""
    from partwise.cli.format import format_table

    rows = [
        (row["server"], row["part"], row["layers"], *_amounts(row, row["read_share_percent"]))
        for row in document["parts"]
    ]
    rows.append(("total", "", "", *_amounts(document, 100.0)))
    sequences = document["num_sequences"]
    header = (
        f"{document['model']} in {len(document['parts'])} parts, {document['precision']} weights,"
        f" fp32 KV cache for {sequences} {'sequence' if sequences == 1 else 'sequences'} of"
        f" {document['context_tokens']:,} tokens (assumed; set --context and --sequences)"
    )
    return f"{header}\n\n{format_table(HEADERS, rows)}"


def render_note(row: dict[str, Any]) -> str:
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


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise PlanError(
            f"cannot write the plan to {path}: {exc.strerror}; give another --out"
        ) from exc
