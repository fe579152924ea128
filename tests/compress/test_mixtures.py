"""Versions of mixtures of experts: experts are rounded one by one, and no units are removed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partwise.compress.compressor import Made
from partwise.compress.recipe import Recipe
from partwise.errors import CompressionError
from partwise.part.torch.outputs import run_to_head


@pytest.fixture
def mixtral(tiny_mixtral: Path, tmp_path: Path) -> Path:
    """A copy of the random mixtral."""
    return Path(shutil.copytree(tiny_mixtral, tmp_path / "mixtral"))


@pytest.mark.parametrize("recipe", [Recipe(bits=8), Recipe(bits=8, method="gptq")])
def test_a_rounded_version_runs_and_is_close(
    recipe: Recipe,
    mixtral: Path,
    windows: list[list[int]],
    make_version: Callable[[Path, Recipe], Made],
) -> None:
    made = make_version(mixtral, recipe)
    # Of 5 blocks 4 projections, a router and 6 experts of 3 matrices; the table and the head.
    assert sum(made.ways.values()) == 5 * (4 + 1 + 6 * 3) + 2
    before, after = (
        run_to_head(mixtral, version, windows[:2], lambda done, total: None) for version in (0, 1)
    )
    for one, other in zip(before.states, after.states, strict=True):
        # Some tokens go to other experts than before.
        moved = np.abs(one - other).mean(axis=-1)
        assert np.median(moved) < 0.2 * np.abs(one).mean()


def test_experts_have_no_units_to_remove(
    mixtral: Path, make_version: Callable[[Path, Recipe], Made]
) -> None:
    with pytest.raises(CompressionError, match="layers.0 has no MLP to remove units of, but exp"):
        make_version(mixtral, Recipe(mlp_sparsity=0.25))
