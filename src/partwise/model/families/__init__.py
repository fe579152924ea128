"""The architectures that partwise knows, one file each.

To add one: a file with a `Family`, an entry in `FAMILIES`, and its runner's side in `part/`.
"""

from __future__ import annotations

from collections.abc import Mapping

from partwise.errors import UnknownArchitecture
from partwise.model.families.family import Family
from partwise.model.families.gpt2 import Gpt2
from partwise.model.families.llama import Llama
from partwise.model.families.mistral import Mistral
from partwise.model.families.mixtral import Mixtral
from partwise.model.families.phi3 import Phi3
from partwise.model.families.qwen2 import Qwen2
from partwise.model.families.qwen3 import Qwen3
from partwise.model.families.qwen3_moe import Qwen3Moe

__all__ = ["FAMILIES", "Family", "find_family"]

FAMILIES: tuple[Family, ...] = (
    Llama(), Mistral(), Mixtral(), Qwen2(), Qwen3(), Qwen3Moe(), Phi3(), Gpt2(),
)  # fmt: skip


def find_family(config: Mapping[str, object]) -> Family:
    """The family that config.json names, by ``architectures`` and ``model_type``.

    Where it gives both they must agree: transformers chooses the class by ``model_type``.

    Raises:
        UnknownArchitecture: none, or they name two.
    """
    listed = config.get("architectures")
    names = [str(n) for n in listed] if isinstance(listed, list) else []
    model_type = config.get("model_type")
    for family in FAMILIES:
        is_named = family.architecture in names
        is_typed = family.model_type == model_type
        if (is_named and (is_typed or model_type is None)) or (is_typed and not names):
            return family
    known = ", ".join(f"{f.architecture} (model_type {f.model_type!r})" for f in FAMILIES)
    found = ", ".join(names) or "no architecture"
    raise UnknownArchitecture(
        f"config.json names {found} with model_type {model_type!r}, partwise knows {known}:"
        " use a model of one of these"
    )
