"""What each step of compression cost, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partwise.cli.compressing.buffers import render_buffers
from partwise.cli.compressing.steps import Step
from partwise.cli.format import MIB, Cell, format_bytes, format_table
from partwise.compress.text import Texts
from partwise.model import Model

CLAIMED_LOSS = 0.001
"""The layer-wise seed: "Minimal accuracy loss (<0.1%) with compression techniques"."""

HEADERS = (
    "version",
    "step",
    "MiB",
    "% of source",
    "perplexity",
    "change %",
    "± %",
    "KL nats",
    "top-1 same %",
    "< 0.1 % loss",
    "compress s",
    "measure s",
)


def name_source(path: Path) -> str:
    """What the weights were before: an import says so, else it is the files' own precision."""
    try:
        found = json.loads((path / "source.json").read_text(encoding="utf-8"))
        return str(found["partwise_source"])
    except (OSError, ValueError, KeyError, TypeError):
        return "as published"


def _finite(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def describe_step(step: Step) -> dict[str, Any]:
    """One step for the JSON document; null stands for figures that are no finite numbers."""
    accuracy = step.accuracy
    change = accuracy.perplexity_ratio - 1
    return {
        "version": step.made.manifest.version,
        "step": step.recipe.step,
        "recipe": step.recipe_label,
        "matrices": step.made.ways,
        "bytes": step.made.num_bytes,
        "bytes_ratio": step.bytes_ratio,
        "is_broken": accuracy.is_broken,
        "perplexity": _finite(accuracy.perplexity),
        "perplexity_change": _finite(change),
        "perplexity_change_standard_error": _finite(accuracy.ratio_spread),
        "kl_nats": _finite(accuracy.kl),
        "top1_agreement": accuracy.top1_agreement,
        "is_within_claimed_loss": not accuracy.is_broken and change < CLAIMED_LOSS,
        "compress_s": step.compress_s,
        "measure_s": step.evaluate_s,
    }


def describe(
    model: Model,
    source: str,
    texts: Texts,
    steps: Sequence[Step],
    buffers: list[dict[str, Any]],
    *,
    is_complete: bool = True,
) -> dict[str, Any]:
    """The report as a JSON document. Where it is not ``is_complete``, a later step failed."""
    return {
        "model": model.name,
        "source": source,
        "source_version": model.version,
        "source_bytes": steps[0].source_bytes,
        "source_perplexity": _finite(steps[0].accuracy.source_perplexity),
        "text": texts.source,
        "num_calibration_tokens": sum(map(len, texts.calibration)),
        "num_evaluated_tokens": texts.num_evaluated,
        "claimed_loss": CLAIMED_LOSS,
        "is_complete": is_complete,
        "steps": [describe_step(step) for step in steps],
        "buffers": buffers,
    }


def _row(step: dict[str, Any]) -> tuple[Cell, ...]:
    change, error = step["perplexity_change"], step["perplexity_change_standard_error"]
    return (
        step["version"],
        step["step"],
        step["bytes"] / MIB,
        100 * step["bytes_ratio"],
        "broken" if step["is_broken"] else step["perplexity"],
        _format(change and 100 * change, "+.2f"),
        _format(error and 100 * error, ".2f"),
        _format(step["kl_nats"], ".5f"),
        100 * step["top1_agreement"],
        "yes" if step["is_within_claimed_loss"] else "no",
        step["compress_s"],
        step["measure_s"],
    )


def _format(figure: float | None, form: str) -> str:
    return "none" if figure is None else format(figure, form)


def render(document: dict[str, Any]) -> str:
    """The report as text for people."""
    rows = [_row(step) for step in document["steps"]]
    ways = [
        f"version {step['version']}: {step['recipe']}"
        + "".join(f"; {count} matrices {way}" for way, count in step["matrices"].items())
        + ("; broken: what it predicts has no finite perplexity" if step["is_broken"] else "")
        for step in document["steps"]
    ]
    source_bytes = format_bytes(document["source_bytes"])
    origin = (
        f"source: {document['model']} version {document['source_version']},"
        f" {document['source']}, {source_bytes}, perplexity"
        f" {_format(document['source_perplexity'], '.3f')} on"
        f" {document['num_evaluated_tokens']:,} tokens"
        f" of {document['text']} that calibration did not see"
    )
    lines = [format_table(HEADERS, rows), "", origin, *ways]
    if not document["is_complete"]:
        lines.append("these steps were finished before the run ended early")
    if document["buffers"]:
        lines += ["", render_buffers(document["buffers"])]
    return "\n".join(lines)
