"""The tensors of a model's files, taken one by one and checked against the config.

What a family does not take is a contradiction, so that nothing is dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from partwise.errors import DamagedModel, ModelError
from partwise.model.description import DTYPE_BYTES, NeuronAxis, Parameter
from partwise.model.safetensors_file import TensorEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFiles:
    """In place of a model's tensors where there are none yet: each is taken to be as its config
    describes it, in ``dtype``, and a tied pair to be stored once."""

    dtype: str


class StoredTensors:
    """The tensors that a family has not taken yet.

    ``prefix`` may be missing from the names in the files (saved from the inner module).
    Names that match ``ignored`` are buffers that the modules compute themselves.
    """

    def __init__(
        self,
        entries: Mapping[str, TensorEntry] | NoFiles,
        *,
        prefix: str,
        ignored: re.Pattern[str],
    ) -> None:
        self._assumed = entries if isinstance(entries, NoFiles) else None
        self._entries = {} if isinstance(entries, NoFiles) else entries
        self._prefix = prefix
        self._ignored = ignored
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the files hold the tensor."""
        return self._find(name) is not None

    def take(
        self, name: str, shape: tuple[int, ...], *neurons: NeuronAxis, stored: str | None = None
    ) -> Parameter:
        """The parameter ``name`` of ``shape``, which the files call ``stored`` (default: the same).
        A compressed version of them has it as ``name``.

        Raises:
            DamagedModel: the tensor is missing or has another shape.
            ModelError: its dtype holds no weights.
        """
        if self._assumed is not None:
            return Parameter(
                name=name, shape=shape, dtype=self._assumed.dtype, neurons=neurons, stored_as=stored
            )
        entry = self._find(stored or name) or self._find(name)
        if entry is None:
            raise DamagedModel(
                f"tensor {stored or name!r} is missing: config.json expects it with shape"
                f" {list(shape)}, the files hold {len(self._entries)} other tensors; download the"
                " model again"
            )
        if entry.shape != shape:
            raise DamagedModel(
                f"tensor {entry.name!r} has shape {list(entry.shape)} in {entry.file},"
                f" config.json expects {list(shape)}: they are of two models, download both again"
            )
        if entry.dtype not in DTYPE_BYTES:
            raise ModelError(
                f"tensor {entry.name!r} has dtype {entry.dtype} in {entry.file}, weights are"
                f" {', '.join(DTYPE_BYTES)}: use a copy of the model that is not quantised"
            )
        self._taken.add(entry.name)
        stored_as = None if entry.name == name else entry.name
        return Parameter(
            name=name, shape=shape, dtype=entry.dtype, neurons=neurons, stored_as=stored_as
        )

    def refuse_leftovers(self, architecture: str) -> None:
        """Refuse tensors that the architecture has no place for.

        Raises:
            DamagedModel: there is one; names it.
        """
        left = [n for n in self._entries if n not in self._taken and not self._ignored.search(n)]
        if left:
            raise DamagedModel(
                f"tensor {min(left)!r} (and {len(left) - 1} more) has no place in the"
                f" {architecture} that config.json describes: download the model again, or"
                " correct its config.json"
            )

    def _find(self, name: str) -> TensorEntry | None:
        return self._entries.get(name) or self._entries.get(name.removeprefix(self._prefix))
