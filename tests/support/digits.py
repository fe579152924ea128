"""Handwritten digits of 8 x 8: scikit-learn's, or where it is not installed blurred stand-ins."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn
from torch.nn import functional

NUM_DIGITS = 10
NUM_STEPS = 60


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 8, 8) between 0 and 1, and what they show."""
    if importlib.util.find_spec("sklearn") is not None:
        from sklearn import datasets

        found = datasets.load_digits()
        images = torch.tensor(found.images / 16, dtype=torch.float32)
        return images[:, None], torch.tensor(found.target)
    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand(NUM_DIGITS, 1, 8, 8, generator=generator)
    labels = torch.arange(1000) % NUM_DIGITS
    noise = torch.rand(1000, 1, 8, 8, generator=generator)
    return (0.6 * shapes[labels] + 0.4 * noise), labels


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A few steps of learning, and the net in eval mode."""
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(NUM_STEPS):
        rows = torch.arange(step * 64, step * 64 + 64) % len(images)
        loss = functional.cross_entropy(net(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()
