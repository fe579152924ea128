"""What a version of a model costs in accuracy against its source, on the same windows of text.

Shapes: N tokens of a window, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CHUNK_TOKENS = 128
"""Logits of so many tokens are in memory at a time: 25 MB each for a vocabulary of 49,152."""


class Predictions(Protocol):
    """What some version predicts for each of the windows."""

    def logits(self, window: int, start: int, stop: int) -> NDArray[np.float32]:
        """For tokens ``start:stop`` of a window (N, V), in an array that may be overwritten."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """See `Predictions`: what goes into the head for each window, (N, H), and the head, (V, H)."""

    states: Sequence[NDArray[np.float32]]
    head: NDArray[np.float32]

    def logits(self, window: int, start: int, stop: int) -> NDArray[np.float32]:
        """See `Predictions.logits`."""
        result: NDArray[np.float32] = self.states[window][start:stop] @ self.head.T
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Figures over all predicted tokens.

    ``perplexity`` of the text, ``source_perplexity`` likewise; ``kl`` is the mean divergence of
    the version's next-token distribution from the source's, in nats; ``top1_agreement`` the share
    of tokens for which both have the same favourite. ``window_ratios`` are the perplexity over
    the source's, window by window. A loss whose exponential no float holds gives infinity, and a
    version that predicts no numbers NaN: it ``is_broken``.
    """

    perplexity: float
    source_perplexity: float
    kl: float
    top1_agreement: float
    window_ratios: tuple[float, ...]

    @property
    def is_broken(self) -> bool:
        """Whether there is no figure for what the version costs."""
        return not (math.isfinite(self.perplexity) and math.isfinite(self.kl))

    @property
    def perplexity_ratio(self) -> float:
        """Over the source's."""
        return self.perplexity / self.source_perplexity

    @property
    def ratio_spread(self) -> float:
        """The standard error of the ratio, from the windows' differences; NaN where they give
        none."""
        if not all(0 < ratio < math.inf for ratio in self.window_ratios):
            return math.nan
        logs = [math.log(ratio) for ratio in self.window_ratios]
        if len(logs) < 2:
            return math.nan
        return self.perplexity_ratio * statistics.stdev(logs) / math.sqrt(len(logs))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Sums over the predicted tokens of one window."""

    loss: float
    source_loss: float
    kl: float
    num_agreeing: int
    num_tokens: int


def compare(
    source: Predictions, version: Predictions, windows: Sequence[Sequence[int]]
) -> Accuracy:
    """The accuracy of ``version`` on ``windows`` of token ids."""
    with np.errstate(over="ignore", invalid="ignore"):  # of broken versions: see `Accuracy`
        rows = [_compare_window(source, version, i, ids) for i, ids in enumerate(windows)]
    num_tokens = sum(row.num_tokens for row in rows)
    return Accuracy(
        perplexity=_exp(sum(row.loss for row in rows) / num_tokens),
        source_perplexity=_exp(sum(row.source_loss for row in rows) / num_tokens),
        kl=sum(row.kl for row in rows) / num_tokens,
        top1_agreement=sum(row.num_agreeing for row in rows) / num_tokens,
        window_ratios=tuple(_exp((row.loss - row.source_loss) / row.num_tokens) for row in rows),
    )


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _compare_window(
    source: Predictions, version: Predictions, window: int, ids: Sequence[int]
) -> _Window:
    loss = source_loss = kl = 0.0
    num_agreeing = 0
    num_tokens = len(ids) - 1
    for start in range(0, num_tokens, CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, num_tokens)
        ours = log_softmax(version.logits(window, start, stop))
        theirs = log_softmax(source.logits(window, start, stop))
        at = np.arange(stop - start), np.asarray(ids[start + 1 : stop + 1])
        loss -= float(ours[at].sum(dtype=np.float64))
        source_loss -= float(theirs[at].sum(dtype=np.float64))
        num_agreeing += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        kl += float((np.exp(theirs) * (theirs - ours)).sum(dtype=np.float64))
    return _Window(
        loss=loss, source_loss=source_loss, kl=kl, num_agreeing=num_agreeing, num_tokens=num_tokens
    )


def log_softmax(logits_NV: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logarithms of the probabilities, row by row; overwrites its argument."""
    logits_NV -= logits_NV.max(axis=-1, keepdims=True)
    logits_NV -= np.log(np.exp(logits_NV).sum(axis=-1, keepdims=True))
    return logits_NV
