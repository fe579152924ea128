"""Why rows, tensors and picks of a frame are not what a part expects; None where they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from partwise.part.events import Assigned
from partwise.remote.codecs import Packed
from partwise.remote.frame import Frame, Row, RowFlag
from partwise.remote.layout import Array

_PICK, _FOLLOWS = int(RowFlag.PICK), int(RowFlag.FOLLOWS)


def refuse_row(part: str, row: Row, expected: int, *, is_after_frame: bool) -> str | None:
    """Why ``row`` does not go on where its sequence stands, at position ``expected``, to where an
    earlier frame brought it or else a row of its own."""
    if row.position != expected or row.num_tokens < 1:
        return (
            f"{part} expects position {expected} of sequence {row.sequence},"
            f" the frame has {row.num_tokens} tokens from {row.position}"
        )
    if row.flags & _FOLLOWS and not (row.num_tokens == 1 and is_after_frame):
        return (
            f"{part} can wait for one picked token after an earlier frame, not for"
            f" {row.num_tokens} at position {expected} of sequence {row.sequence}"
        )
    return None


def refuse_tensor(frame: Frame, expected: Assigned) -> str | None:
    """Why the frame's tensors are not what the part computes on."""
    part = expected.part
    shape = (sum([row.num_tokens for row in frame.rows]), *expected.input_widths)
    if len(frame.tensors) != 1 or frame.tensors[0].shape != shape:
        shapes = [tensor.shape for tensor in frame.tensors]
        return f"{part} expects one tensor of shape {shape}, the frame has {shapes}"
    tensor = frame.tensors[0]
    if tensor.dtype != expected.input_dtype:
        return f"{part} expects {expected.input_dtype}, the frame has {tensor.dtype}"
    codec = tensor.codec if isinstance(tensor, Packed) else "fp32"
    if codec not in expected.input_codecs:
        planned = ", ".join(sorted(expected.input_codecs))
        return f"the plan sends {planned} to {part}, the frame has {codec}"
    return None


def refuse_picks(frame: Frame, expected: Assigned, positions: Mapping[int, int]) -> str | None:
    """Why the frame is not what was picked for its rows, of sequences that stand at
    ``positions``."""
    part, vocab_size = expected.part, expected.vocab_size
    shape = (sum([row.flags & _PICK for row in frame.rows]),)
    found = [(tensor.dtype, tensor.shape) for tensor in frame.tensors]
    if found != [(np.dtype(np.int64), shape)]:
        return f"{part} expects {shape[0]} picks, the frame has {found}"
    ids: Array = frame.tensors[0]  # type: ignore[assignment]
    if wrong := [token for token in ids.tolist() if not 0 <= token < vocab_size]:
        return f"{part} was told of token {wrong[0]}, the vocabulary has {vocab_size}"
    for row in frame.rows:
        stop = row.position + row.num_tokens
        if stop > positions.get(row.sequence, stop):
            return (
                f"{part} was told what is picked for position {stop} of sequence"
                f" {row.sequence}, which stands at {positions[row.sequence]}"
            )
    return None
