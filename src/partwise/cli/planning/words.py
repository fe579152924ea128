"""Words and figures that the texts of `partwise plan` share."""

from __future__ import annotations

from typing import Any


def count(number: int, noun: str) -> str:
    """A number and its noun, e.g. ``1 server`` or ``3 servers``."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def format_figure(value: float) -> str:
    """A predicted figure: it is not known to more than three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def render_asked(question: dict[str, Any], streams: int) -> str:
    """The model, the cluster and the work, in half a line."""
    context, sequences = question["context_tokens"], question["num_sequences"]
    if question["is_training"]:
        again = ", with checkpointing" if question["has_checkpointing"] else ""
        microbatches = count(streams, name_streams(question))
        work = f"training on {microbatches} of {sequences} x {context:,} tokens{again}"
    else:
        held = max(sequences, streams)
        work = f"{count(streams, 'stream')}, KV cache for {held:,} x {context:,} tokens"
    if question["is_context_assumed"]:
        work += " (assumed; set --context)"
    where = f"{question['model']} over {question['cluster']}"
    return f"{where}, {question['precision']} weights, {work}"


def name_streams(question: dict[str, Any]) -> str:
    """What the number of streams counts: in training microbatches a step."""
    return "microbatch" if question["is_training"] else "stream"


def render_measure(verdict: dict[str, Any], question: dict[str, Any]) -> str:
    """By what a verdict judges."""
    noun = name_streams(question)
    if verdict["measure"] == "latency":
        return f"for one {noun}"
    return f"at {count(verdict['streams'], noun)}"
