"""What connectivity saves on shuffled block-sparse chains, beside what their blocks would.

The planted cut (each block a part) sends an activation to another block where any of its w
neurons reads it: 7 (1 - (1 - p)^w) a neuron, p being the density across blocks. Shares by count
send to nearly every part, about 7 (1 - (7/8)^(1.1 w)). So what blocks save falls as they widen:
5.8 times at w = 8, 2.5 at w = 32. Cutting between layers too saves more than that.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from partwise.distributor.connectivity import own_by_count
from partwise.distributor.hypergraph import Mask, Owners, count_sent, cut_neurons

NUM_LAYERS, NUM_BLOCKS, SHARE_ACROSS = 6, 8, 0.1
SEEDS = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Times fewer activations than by count, medians over seeds: of the cut found, of the
    planted one, and of the latter by arithmetic."""

    width: int
    found: float
    least_found: float
    planted: float
    by_arithmetic: float


def measure_saving(width: int, imbalance: float = 0.03) -> Saving:
    found, planted = [], []
    for seed in SEEDS:
        masks, blocks = plant_blocks(width, seed)
        by_count = count_sent(masks, own_by_count(masks, NUM_BLOCKS), NUM_BLOCKS)
        owners = cut_neurons(masks, NUM_BLOCKS, imbalance=imbalance, seed=0)
        found.append(by_count / count_sent(masks, owners, NUM_BLOCKS))
        planted.append(by_count / count_sent(masks, blocks, NUM_BLOCKS))
    return Saving(
        width=width,
        found=statistics.median(found),
        least_found=min(found),
        planted=statistics.median(planted),
        by_arithmetic=expect_planted(width),
    )


def describe(saving: Saving) -> str:
    return (
        f"{saving.found:.2f} x (least {saving.least_found:.2f}; planted {saving.planted:.2f},"
        f" by arithmetic {saving.by_arithmetic:.2f})"
    )


def plant_blocks(width: int, seed: int) -> tuple[list[Mask], list[Owners]]:
    """Masks of the chain, and each output's block, which the shuffling hides."""
    rng = np.random.default_rng(seed)
    num_neurons = NUM_BLOCKS * width
    block_of = np.arange(num_neurons) // width
    orders = [rng.permutation(num_neurons) for _ in range(NUM_LAYERS + 1)]
    masks, owners = [], []
    for before, after in pairwise(orders):
        mask = block_of[:, None] == block_of[None, :]
        num_across = round(mask.sum() * SHARE_ACROSS / (1 - SHARE_ACROSS))
        outside = np.flatnonzero(~mask)
        mask.ravel()[rng.choice(outside, num_across, replace=False)] = True
        masks.append(mask[np.ix_(after, before)])
        owners.append(block_of[after].astype(np.int64))
    return masks, owners


def expect_planted(width: int) -> float:
    """What the planted cut saves, from densities alone."""
    others = NUM_BLOCKS - 1
    density = SHARE_ACROSS / (1 - SHARE_ACROSS) / others
    planted = others * (1 - (1 - density) ** width)
    num_readers = width / (1 - SHARE_ACROSS)
    by_count: float = others * (1 - (1 - 1 / NUM_BLOCKS) ** num_readers)
    return by_count / planted
