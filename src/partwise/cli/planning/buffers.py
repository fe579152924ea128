"""What a plan's parts take for activations and temporary buffers: as JSON and as a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partwise.distributor import Plan
    from partwise.model.description import Model

CHUNK_TOKENS = 128
"""Of a prompt that a part reads in one pass, as the engine sends it."""


def describe_buffers(
    plan: Plan, model: Model, part: str, context_tokens: int
) -> list[dict[str, Any]]:
    """The passes that take most: the last chunk of a prompt that fills the context, and the
    last token."""
    from partwise.distributor.buffers import measure_buffers

    rows = []
    for tokens in (min(CHUNK_TOKENS, context_tokens), 1):
        past_tokens = context_tokens - tokens
        found = measure_buffers(plan, model, part, tokens=tokens, past_tokens=past_tokens)
        rows.append(
            {
                "num_tokens": tokens,
                "past_tokens": past_tokens,
                "fused_bytes": found.fused_bytes,
                "single_steps_bytes": found.single_steps_bytes,
            }
        )
    return rows


def describe_parts(plan: Plan, model: Model, context_tokens: int) -> list[dict[str, Any]]:
    """The same for each part, with its name."""
    return [
        {"part": part.name, "buffers": describe_buffers(plan, model, part.name, context_tokens)}
        for part in plan.parts
    ]


def render_buffers(parts: Sequence[dict[str, Any]]) -> str:
    """One line: of each pass what the part takes that takes most."""
    words = []
    for passes in zip(*(part["buffers"] for part in parts), strict=True):
        most = max(passes, key=lambda row: row["fused_bytes"])
        words.append(_render(most))
    return f"buffers: at most {'; '.join(words)}"


def _render(row: dict[str, Any]) -> str:
    from partwise.cli.format import format_bytes

    tokens = "1 token" if row["num_tokens"] == 1 else f"{row['num_tokens']} tokens"
    return (
        f"{format_bytes(row['fused_bytes'])} in a pass of {tokens} after"
        f" {row['past_tokens']:,}, {format_bytes(row['single_steps_bytes'])} without fusion"
    )
