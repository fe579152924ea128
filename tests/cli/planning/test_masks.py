"""`--masks`: from a file, or the model's own, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

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
