"""Which weights are not zero, from a file or from the model's own store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.store import Store

WEIGHTS = "weights"
"""Instead of a file: the weights themselves."""


def read_masks(text: str, model: Path) -> Mapping[str, Any]:
    """Patterns by parameter, of a file or of the weights of the ``model``.

    Raises:
        UsageError: there is no such file, or it is neither safetensors nor npz.
    """
    if text == WEIGHTS:
        return StoredPatterns(model)
    path = Path(text)
    try:
        return _load(path)
    except Exception as exc:  # Both libraries raise a dozen kinds for a damaged file.
        raise UsageError(
            f"--masks cannot read {text!r} ({type(exc).__name__}): give a .safetensors or .npz"
            f" file with an array by parameter, or {WEIGHTS!r} for the model's own"
        ) from exc


def _load(path: Path) -> dict[str, Any]:
    import numpy as np

    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return {name: array != 0 for name, array in load_file(path).items()}
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] != 0 for name in arrays.files}


class StoredPatterns(Mapping[str, Any]):
    """The non-zero pattern of each parameter, read where it is asked for."""

    def __init__(self, model: Path) -> None:
        from partwise.model import open_model

        self._path = model
        self._stored = {p.name: p.stored_name for p in open_model(model).parameters}

    def __getitem__(self, name: str) -> Any:
        return self._store.read(self._stored[name]) != 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    @cached_property
    def _store(self) -> Store:
        from partwise.store import Store

        return Store.open(self._path)
