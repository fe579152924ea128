"""What a plan shall be best at, and how predictions are ranked by it."""

from __future__ import annotations

from typing import Literal, get_args

from partwise.distributor.cost import Prediction

Goal = Literal["latency", "throughput", "fewest-servers"]

GOALS: tuple[Goal, ...] = get_args(Goal)


def rank(prediction: Prediction, goal: Goal) -> tuple[float, ...]:
    """A key that is least for the best prediction.

    ``latency`` is that of one stream, ``throughput`` that of all streams of the workload; each
    breaks the other's ties, and both those of ``fewest-servers``.
    """
    latency_s, tokens_per_s = prediction.latency_s, prediction.tokens_per_s
    match goal:
        case "latency":
            return latency_s, -tokens_per_s
        case "throughput":
            return -tokens_per_s, latency_s
        case "fewest-servers":
            return len(prediction.parts), -tokens_per_s, latency_s
