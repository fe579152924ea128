"""Text to calibrate with and text to measure on: two ends of one text, in windows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from partwise.errors import CompressionError

HELD_OUT = 0.1
"""The share of the text, its end, that calibration never sees and measurements use."""

WINDOW_TOKENS = 512
CALIBRATION_WINDOWS, EVALUATION_WINDOWS = 8, 8
LEAST_WINDOWS = 2

BUILT_IN = "pydoc_data.topics"
"""The reference manual's topics, which ship with Python."""

Encode = Callable[[str], Sequence[int]]
Windows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Windows of token ids, all of one length; ``source`` says of which text."""

    source: str
    calibration: Windows
    evaluation: Windows

    @property
    def num_evaluated(self) -> int:
        """How many tokens are predicted: all but the first of each window."""
        return sum(len(window) - 1 for window in self.evaluation)


def read_text(file: Path | None) -> tuple[str, str]:
    """The name and the content of a text file, or of the text that ships with Python.

    Raises:
        CompressionError: the file cannot be read, is not UTF-8, or is empty.
    """
    if file is None:
        from pydoc_data.topics import topics

        return BUILT_IN, "\n\n".join(topics[key] for key in sorted(topics))
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        raise CompressionError(
            f"cannot read the calibration text {file}: {exc.strerror}; give a UTF-8 text file"
        ) from exc
    except UnicodeDecodeError as exc:
        raise CompressionError(f"{file} is not UTF-8 text ({exc}): convert it") from exc
    if not text.strip():
        raise CompressionError(
            f"the calibration text {file} is empty: give a longer file, or none for {BUILT_IN}"
        )
    return file.name, text


def split_text(
    source: str,
    text: str,
    encode: Encode,
    *,
    window_tokens: int = WINDOW_TOKENS,
    num_calibration: int = CALIBRATION_WINDOWS,
    num_evaluation: int = EVALUATION_WINDOWS,
) -> Texts:
    """Windows of the first nine tenths to calibrate with, and of the last to measure on.

    Each part is encoded by itself; its windows are spread evenly over it.

    Raises:
        CompressionError: a part has fewer tokens than two windows.
    """
    border = round((1 - HELD_OUT) * len(text))
    parts = text[:border], text[border:]
    counts = num_calibration, num_evaluation
    calibration, evaluation = (
        _spread(source, encode(part) if part else (), window_tokens, count)
        for part, count in zip(parts, counts, strict=True)
    )
    return Texts(source=source, calibration=calibration, evaluation=evaluation)


def _spread(source: str, ids: Sequence[int], window_tokens: int, count: int) -> Windows:
    num_whole = len(ids) // window_tokens
    if num_whole < LEAST_WINDOWS:
        raise CompressionError(
            f"the calibration text {source} is too short: one of its parts (nine tenths to"
            f" calibrate with, one to measure on) has {len(ids)} tokens, at least"
            f" {LEAST_WINDOWS * window_tokens} are needed ({LEAST_WINDOWS} windows of"
            f" {window_tokens}); give a longer file, or none for {BUILT_IN}"
        )
    count = min(count, num_whole)
    starts = [i * (len(ids) - window_tokens) // max(count - 1, 1) for i in range(count)]
    return tuple(tuple(ids[start : start + window_tokens]) for start in starts)
