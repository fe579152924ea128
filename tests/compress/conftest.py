"""A model directory of one's own: versions are written beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partwise.compress.compressor import Made, compress
from partwise.compress.recipe import Recipe
from partwise.part.torch.walk import TorchWalk
from partwise.store import Store, open_version

WINDOW_TOKENS = 48


@pytest.fixture
def llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the random llama, its head its own."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


@pytest.fixture
def tied_llama(tiny_llama_tied: Path, tmp_path: Path) -> Path:
    """A copy of the random llama whose head is its embedding."""
    return Path(shutil.copytree(tiny_llama_tied, tmp_path / "tied-llama"))


@pytest.fixture
def gpt2(tiny_gpt2: Path, tmp_path: Path) -> Path:
    """A copy of the random gpt2, whose matrices have their inputs first."""
    return Path(shutil.copytree(tiny_gpt2, tmp_path / "gpt2"))


@pytest.fixture(scope="session")
def windows() -> list[list[int]]:
    """Random token ids, enough of them that second moments have full rank."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 380, (8, WINDOW_TOKENS)).tolist()


@pytest.fixture(scope="session")
def make_version(windows: list[list[int]]) -> Callable[[Path, Recipe], Made]:
    """Makes a version of the model's own files, calibrated on `windows` where it wants to be."""

    def make(path: Path, recipe: Recipe, version: int = 0) -> Made:
        model = open_version(path, version)
        with Store.open(path, version) as source:
            walk = TorchWalk(model, source.config, windows) if recipe.needs_calibration else None
            return compress(path, model, source, recipe, walk, lambda step, done, total: None)

    return make
