"""The seam of a family adapter, and the reading of the config values that it needs.

A family says what one architecture calls its layers, what its tensors' shapes are, and how
they may be split. It runs nothing; see `part/` for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from partwise.errors import DamagedModel, ModelError
from partwise.model.description import Model
from partwise.model.families.stored import NoFiles
from partwise.model.safetensors_file import TensorEntry

KV_GROUP = "kv_group"
"""The query heads that share one key-value head, with it."""
MLP_UNIT = "mlp_unit"
"""An intermediate unit of the (gated) MLP."""
EXPERT = "expert"
"""One of the MLPs of a mixture, of which a router chooses a few for each token."""
VOCABULARY_ROW = "vocabulary_row"
"""A row of the embedding or of the head."""

_MEANINGLESS = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
)
"""Keys of config.json that say where it came from, or what partwise decides itself."""


class Family(Protocol):
    """What partwise knows of one architecture."""

    @property
    def architecture(self) -> str:
        """The class in transformers, as ``architectures`` in config.json names it."""

    @property
    def model_type(self) -> str:
        """``model_type`` in config.json."""

    def describe(
        self,
        config: Mapping[str, object],
        shapes_by_name: Mapping[str, TensorEntry] | NoFiles,
        name: str,
    ) -> Model:
        """The model called ``name``, its tensors checked against the config.

        Raises:
            DamagedModel: a tensor is missing, unexpected or of another shape.
            ModelError: a config value that the family does not support.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """config.json with checked reads. A null counts as absent, as transformers reads it."""

    values: Mapping[str, object]

    def size(self, key: str, default: int) -> int:
        """A whole number of at least 1.

        Raises:
            DamagedModel: it is something else.
        """
        value = self._get(key, default)
        if type(value) is not int or value < 1:
            raise DamagedModel(
                f"config.json has {key} = {value!r}, expected a whole number of at least 1:"
                " download it again"
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false.

        Raises:
            DamagedModel: it is something else.
        """
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise DamagedModel(
                f"config.json has {key} = {value!r}, expected true or false: download it again"
            )
        return value

    def refuse(self, key: str, advice: str) -> None:
        """Refuse a model that sets ``key`` to anything but null or false.

        Raises:
            ModelError: it does; the message ends with ``advice``.
        """
        value = self._get(key, False)
        if value is not False:
            text = repr(value)
            short = text if len(text) <= 60 else text[:57] + "..."
            raise ModelError(f"config.json sets {key} = {short}, which is not supported: {advice}")

    def divide(self, key: str, divisor_key: str, values: tuple[int, int]) -> int:
        """``values[0] / values[1]``, named by their keys in the error.

        Raises:
            DamagedModel: it is no whole number.
        """
        if values[0] % values[1]:
            raise DamagedModel(
                f"config.json has {key} = {values[0]}, which is not a multiple of {divisor_key} ="
                f" {values[1]}: download it again"
            )
        return values[0] // values[1]

    def digest(self) -> str:
        """The same for configs that mean the same, whatever the order of their keys."""
        kept = {key: value for key, value in self.values.items() if key not in _MEANINGLESS}
        listed = kept.get("architectures")
        if isinstance(listed, list):
            kept["architectures"] = sorted(map(str, listed))
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def _get(self, key: str, default: object) -> object:
        value = self.values.get(key)
        return default if value is None else value
