"""`partwise model`: what a model consists of, from its file headers alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.cli.version import add_version, open_chosen

if TYPE_CHECKING:
    from partwise.model.description import Layer, Model

NAME = "model"
HELP = "describe a model from its file headers"
EXAMPLES = (
    "partwise model models/SmolLM2-135M-Instruct",
    "partwise model models/SmolLM2-135M-Instruct --json",
)

FP32_BYTES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise model``."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a Hugging Face model directory")
    add_version(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the description of a model."""
    model = open_chosen(args)
    print(json.dumps(describe(model), indent=1) if args.json else render(model))
    return 0


def describe(model: Model) -> dict[str, Any]:
    """The model as a JSON document; sizes are those of fp32."""
    return {
        "name": model.name,
        "architecture": model.architecture,
        "fingerprint": model.fingerprint,
        "context_tokens": model.context_tokens,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_layers": len(model.layers),
        "num_blocks": model.num_blocks,
        "num_parameters": model.num_parameters,
        "weight_bytes": model.num_parameters * FP32_BYTES,
        "kv_bytes_per_token": kv_bytes_per_token(model),
        "macs_per_token": sum(layer.macs_per_token for layer in model.layers),
        "tied": tied_parameters(model),
        "layers": [describe_layer(layer) for layer in model.layers],
    }


def describe_layer(layer: Layer) -> dict[str, Any]:
    """One layer as a JSON object; a tied parameter counts in every layer that uses it."""
    return {
        "name": layer.name,
        "kind": str(layer.kind),
        "num_parameters": layer.num_elements,
        "weight_bytes": layer.num_elements * FP32_BYTES,
        "neurons": {kind.name: kind.count for kind in layer.neuron_kinds},
        "kv_bytes_per_token": layer.kv_elements_per_token * FP32_BYTES,
        "macs_per_token": layer.macs_per_token,
    }


def tied_parameters(model: Model) -> dict[str, list[str]]:
    """The aliases of every parameter that has some."""
    tied: dict[str, list[str]] = {}
    for parameter in model.parameters:
        if parameter.alias_of is not None:
            tied.setdefault(parameter.alias_of, []).append(parameter.name)
    return tied


def kv_bytes_per_token(model: Model) -> int:
    """Bytes that one token of context takes in the fp32 KV caches of all layers."""
    return FP32_BYTES * sum(layer.kv_elements_per_token for layer in model.layers)


def render(model: Model) -> str:
    """The model as text for people."""
    from partwise.cli.format import MIB, format_table

    headers = ("layer", "kind", "parameters", "fp32 MiB", "neurons", "KV bytes per token")
    rows = [
        (
            layer.name,
            str(layer.kind),
            layer.num_elements,
            layer.num_elements * FP32_BYTES / MIB,
            " + ".join(f"{kind.count:,} {kind.name}" for kind in layer.neuron_kinds),
            layer.kv_elements_per_token * FP32_BYTES or None,
        )
        for layer in model.layers
    ]
    return f"{format_table(headers, rows)}\n\n{render_totals(model)}"


def render_totals(model: Model) -> str:
    """What holds for the whole model, a line each."""
    from partwise.cli.format import format_bytes

    weights = format_bytes(model.num_parameters * FP32_BYTES)
    cache = format_bytes(kv_bytes_per_token(model))
    name = f"{model.name} ({model.architecture})"
    lines = [
        f"{name}: {model.num_parameters:,} parameters, {weights} at fp32",
        f"context {model.context_tokens:,} tokens, KV cache {cache} per token at fp32",
    ]
    lines += [
        f"tied: {', '.join(aliases)} = {name}, counted once in the total"
        for name, aliases in tied_parameters(model).items()
    ]
    return "\n".join(lines)
