"""Layers that are captured whole: modules of torch.nn as the table lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from partwise.capture.table import MODULES

if TYPE_CHECKING:
    import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_UNSAID: dict[str, dict[str, Any]] = {
    "Embedding": {"max_norm": None},
    "MultiheadAttention": {"bias_k": None, "add_zero_attn": False},
}
"""Values that the table does not construct with: layers that have others are no leaves."""


def is_leaf(module: torch.nn.Module) -> bool:
    """Whether ``module`` is a layer of the table and nothing else: no subclass, no hooks."""
    import torch

    name = type(module).__name__
    if name not in MODULES or type(module) is not getattr(torch.nn, name):
        return False
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return False
    unsaid = _UNSAID.get(name, {})
    return all(getattr(module, key) == value for key, value in unsaid.items())


def list_options(module: torch.nn.Module) -> dict[str, Any]:
    """The values with which a leaf like ``module`` is constructed."""
    options = {}
    for key in MODULES[type(module).__name__]:
        value = getattr(module, "in_proj_bias" if _is_attention(module, key) else key)
        is_tensor = key == "bias" and not isinstance(value, bool)
        options[key] = value is not None if is_tensor else value
    return options


def _is_attention(module: torch.nn.Module, key: str) -> bool:
    return key == "bias" and type(module).__name__ == "MultiheadAttention"


def build_leaf(target: str, options: dict[str, Any]) -> torch.nn.Module:
    """A layer of the table, without values of its own (its tensors are on the meta device)."""
    import torch

    with torch.device("meta"):
        module: torch.nn.Module = getattr(torch.nn, target)(**options)
    return module.eval()
