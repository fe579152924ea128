"""One operation of a captured module, ready to be called with the tensors that a part has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from partwise.capture.arguments import read_argument
from partwise.capture.graph import Node
from partwise.capture.layout import Share
from partwise.capture.leaves import build_leaf
from partwise.capture.passes import Pass
from partwise.capture.table import find_callable
from partwise.capture.values import list_states
from partwise.part.module.states import StateReader

Pick = tuple[int, torch.Tensor]
"""An axis, and the places along it."""


class Operation:
    """Computes a share of a node. ``picks`` say which elements it takes of the values that it does
    not read as they are."""

    def __init__(self, share: Share, picks: Mapping[str, Pick], reader: StateReader) -> None:
        """Read its parameters.

        Raises:
            DamagedModel, StoreError: as `StateReader.read`.
        """
        self.node = share.node
        self._picks = picks
        self._is_empty = share.outputs is not None and not len(share.outputs)
        self._states: dict[str, torch.Tensor] = {}
        self._call: Callable[..., Any]
        if self._is_empty:
            return
        if share.node.kind == "module":
            self._call = _build_module(share.node, reader)
        else:
            self._call = find_callable(share.node.kind, share.node.target)
            for name in list_states(share.node):
                self._states[name] = reader.read(name, share.slices.get(name, ()))

    def compute(self, current: Pass) -> Any:
        """Its result, from what the part has in this pass."""

        def look_up(name: str) -> Any:
            pick, value = self._picks.get(name), current.find(name)
            return value if pick is None else value.index_select(*pick)

        if self._is_empty:
            return current.make_empty(self.node.name)
        batch = current.batch
        lookups = {"node": look_up, "state": self._states.__getitem__}
        args = [read_argument(argument, lookups, batch) for argument in self.node.args]
        kwargs = {k: read_argument(v, lookups, batch) for k, v in self.node.kwargs.items()}
        return self._call(*args, **kwargs)


def _build_module(node: Node, reader: StateReader) -> nn.Module:
    """The layer of torch that ``node`` is, with its parameters."""
    options = {key: read_argument(value, {}, 0) for key, value in node.options.items()}
    module = build_leaf(node.target, options)
    states = {own: reader.read(name) for own, name in node.states.items()}
    module.load_state_dict(states, strict=False, assign=True)
    return module.requires_grad_(False)
