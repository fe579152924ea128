"""The report's lines on buffers: what a block's activations take with and without fusion."""

from __future__ import annotations

from typing import Any

from partwise.cli.format import MIB, format_table
from partwise.distributor.buffers import read_block
from partwise.distributor.load import measure_layer
from partwise.distributor.operators import CLAIMED_SAVING, fused_peak_bytes, unfused_peak_bytes
from partwise.model import LayerKind, Model

PASSES = ((128, 0), (512, 0), (1, 511))
"""New tokens and tokens before them: a chunk of a prompt, a long one, a decoded token."""
HEADERS = ("pass", "how", "fused MiB", "single steps MiB", "saved %", "80 % saved")


def describe_buffers(model: Model, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Peak bytes of activations and temporary buffers of one block, pass by pass: worked out
    from its shapes, and measured for passes without a past.
    """
    rows = []
    layer = next(layer for layer in model.layers if layer.kind is LayerKind.BLOCK)
    for tokens, past_tokens in PASSES:
        sizes = read_block(layer, measure_layer(layer), model.hidden_size, (tokens, past_tokens))
        peaks = fused_peak_bytes(sizes), unfused_peak_bytes(sizes)
        rows.append(_row(tokens, past_tokens, "from the shapes", peaks))
        if not past_tokens:
            from partwise.part.torch.buffers import measure_block

            peaks = measure_block(model, config, tokens)
            rows.append(_row(tokens, past_tokens, "measured (torch)", peaks))
    return rows


def _row(tokens: int, past_tokens: int, how: str, peaks: tuple[int, int]) -> dict[str, Any]:
    fused, single = peaks
    return {
        "tokens": tokens,
        "past_tokens": past_tokens,
        "how": how,
        "fused_bytes": fused,
        "single_steps_bytes": single,
        "saving": 1 - fused / single,
        "claimed_saving": CLAIMED_SAVING,
    }


def render_buffers(rows: list[dict[str, Any]]) -> str:
    """The rows as text for people."""
    cells = [
        (
            f"{row['tokens']} tokens after {row['past_tokens']}",
            row["how"],
            row["fused_bytes"] / MIB,
            row["single_steps_bytes"] / MIB,
            100 * row["saving"],
            "yes" if row["saving"] >= row["claimed_saving"] else "no",
        )
        for row in rows
    ]
    return "buffers of one block:\n" + format_table(HEADERS, cells)
