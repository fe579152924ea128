"""`--masks`: from a file, or the model's own, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from partwise.cli.main import main
from partwise.cli.planning.masks import read_masks
from partwise.errors import UsageError


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_patterns_are_the_non_zero_elements_of_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"masks{suffix}"
    array = np.array([[0.0, 2.0], [-1.0, 0.0]], dtype=np.float32)
    if suffix == ".npz":
        np.savez(path, **{"linear.0.weight": array})
    else:
        save_file({"linear.0.weight": array}, path)
    masks = read_masks(str(path), tmp_path)
    assert masks["linear.0.weight"].tolist() == [[False, True], [True, False]]


def test_a_file_that_holds_no_arrays_is_refused_in_one_line(tmp_path: Path) -> None:
    for name, data in (("a.npz", b"no"), ("b.safetensors", b"no"), ("none.npz", None)):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UsageError, match=r"--masks cannot read .*: give a \.safetensors or"):
            read_masks(str(path), tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"no.such.weight": np.eye(2)}, "'no.such.weight', no parameter of"),
        (
            {"model.embed_tokens.weight": np.eye(2)},
            "the mask of 'model.embed_tokens.weight' has shape",
        ),
        (None, "connectivity follows a chain of linear layers"),
    ],
)
def test_masks_that_do_not_fit_the_model_are_refused(
    arrays: dict[str, Any] | None,
    message: str,
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "masks.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    masks = "weights" if arrays is None else str(path)
    words = ["--cluster", "local-2", "--strategy", "connectivity", "--masks", masks]
    assert main(["plan", str(tiny_llama), *words]) == 1
    note, line = capsys.readouterr().err.splitlines()
    assert note.startswith("note: local-2")
    assert line.startswith("partwise: ")
    assert message in line


def test_the_models_own_pattern_is_read_from_its_store(tiny_llama: Path) -> None:
    masks = read_masks("weights", tiny_llama)
    name = "model.layers.0.mlp.up_proj.weight"
    assert name in masks
    assert masks[name].dtype == np.bool_
    assert len(masks) == len(list(masks))
