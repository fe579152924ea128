"""Perplexity, divergence and agreement, against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from partwise.compress.accuracy import Outputs, compare

GENERATOR = np.random.default_rng(0)
WINDOWS = GENERATOR.integers(0, 50, (3, 300)).tolist()


def random_outputs(seed: int, noise: float = 0.0) -> Outputs:
    generator = np.random.default_rng(seed)
    head = generator.normal(size=(50, 16)).astype(np.float32)
    states = generator.normal(size=(3, 300, 16)).astype(np.float32)
    other = np.random.default_rng(99).normal(size=states.shape).astype(np.float32)
    return Outputs(states=list(states + noise * other), head=head)


def test_figures_are_those_of_torch() -> None:
    source, version = random_outputs(1), random_outputs(1, noise=0.3)
    accuracy = compare(source, version, WINDOWS)
    ours, theirs = (
        torch.tensor(np.stack([s[:-1] @ outputs.head.T for s in outputs.states])).flatten(0, 1)
        for outputs in (version, source)
    )
    targets = torch.tensor(WINDOWS)[:, 1:].flatten()
    assert accuracy.perplexity == pytest.approx(float(cross_entropy(ours, targets).exp()), rel=1e-5)
    expected = float(cross_entropy(theirs, targets).exp())
    assert accuracy.source_perplexity == pytest.approx(expected, rel=1e-5)
    logs = log_softmax(ours, -1), log_softmax(theirs, -1)
    divergence = float(kl_div(*logs, reduction="batchmean", log_target=True))
    assert accuracy.kl == pytest.approx(divergence, rel=1e-4)
    same = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    assert accuracy.top1_agreement == pytest.approx(same)
    assert 0.5 < accuracy.top1_agreement < 1


def test_a_version_that_is_its_source_costs_nothing() -> None:
    accuracy = compare(random_outputs(2), random_outputs(2), WINDOWS)
    assert accuracy.kl == 0
    assert accuracy.top1_agreement == 1
    assert accuracy.perplexity_ratio == 1
    assert accuracy.ratio_spread == 0


def test_the_spread_is_the_standard_error_over_windows() -> None:
    accuracy = compare(random_outputs(1), random_outputs(1, noise=0.3), WINDOWS)
    assert len(accuracy.window_ratios) == 3
    logs = [math.log(ratio) for ratio in accuracy.window_ratios]
    assert math.exp(sum(logs) / 3) == pytest.approx(accuracy.perplexity_ratio, rel=1e-6)
    expected = float(np.std(logs, ddof=1)) / math.sqrt(3) * accuracy.perplexity_ratio
    assert accuracy.ratio_spread == pytest.approx(expected)


@pytest.mark.parametrize("factor", [1e4, np.nan])
def test_a_version_that_predicts_nonsense_is_broken_and_no_error(factor: float) -> None:
    source = random_outputs(1)
    version = Outputs(states=[s * np.float32(factor) for s in source.states], head=source.head)
    accuracy = compare(source, version, WINDOWS)
    assert accuracy.is_broken
    assert not math.isfinite(accuracy.perplexity)
    assert math.isnan(accuracy.ratio_spread)
    assert not compare(source, source, WINDOWS).is_broken
    # The other way round the ratios are 0 or no numbers.
    assert math.isnan(compare(version, source, WINDOWS).ratio_spread)
