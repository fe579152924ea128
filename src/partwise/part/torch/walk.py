"""Text on its way through a model, layer by layer: what compression calibrates and measures with.

One layer is in memory at a time, so that a model may be larger than this machine. Every row of
text is a pass by itself, as in `runner.py`, so that none sees another's shape.

Shapes: N tokens of a row, I inputs of a matrix, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from partwise.compress.activations import Weights
from partwise.compress.matrices import matrices_of
from partwise.model import Layer, LayerKind, Model
from partwise.part.torch.attention import register_attention
from partwise.part.torch.families import torch_family
from partwise.part.torch.kv import ContiguousKv
from partwise.part.torch.modules import build_module


class TorchWalk:
    """Rows of token ids before the first layer of a model. See `Activations`.

    ``config`` is the content of the model's config.json; matrices with neurons missing are given
    with zeros in their place.
    """

    def __init__(
        self, model: Model, config: Mapping[str, Any], rows: Sequence[Sequence[int]]
    ) -> None:
        register_attention()
        self._model = model
        self._family = torch_family(model.architecture, config)
        self._states = [torch.tensor(row) for row in rows]

    @property
    def states(self) -> list[NDArray[np.float32]]:
        """The hidden states (N, H) of each row before the next layer."""
        return [state[0].numpy() for state in self._states]

    @torch.inference_mode()
    def moments(self, index: int, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """See `Activations.moments`."""
        layer = self._model.layers[index]
        sums: dict[str, NDArray[np.float64]] = {}
        for names, inputs_NI in self._inputs(layer, self._build(index, weights)):
            product = (inputs_NI.T @ inputs_NI).double().numpy()
            for name in names:
                sums[name] = sums[name] + product if name in sums else product
        num_tokens = sum(state.shape[-2] for state in self._states)
        found = {name: total / num_tokens for name, total in sums.items()}
        # Of an expert that no token chose nothing is known: to it all inputs are alike.
        unheard = (p for p in matrices_of(layer) if p.name not in found)
        return found | {p.name: np.eye(p.shape[1]) for p in unheard}

    @torch.inference_mode()
    def advance(self, index: int, weights: Weights) -> None:
        """See `Activations.advance`."""
        layer = self._model.layers[index]
        module = self._build(index, weights)
        self._states = [self._apply(layer, module, state) for state in self._states]

    def _inputs(self, layer: Layer, module: nn.Module) -> Iterator[tuple[list[str], Tensor]]:
        """What each matrix of ``layer`` is multiplied by, row after row."""
        for state in self._states:
            if layer.kind is LayerKind.HEAD:
                # Its outputs, a number for each word of the vocabulary, are not needed.
                yield [p.name for p in layer.parameters], state[0]
                continue
            with _Listener(layer, self._family.prefix(layer), module) as listener:
                self._apply(layer, module, state)
            yield from listener.heard

    def _build(self, index: int, weights: Weights) -> nn.Module:
        layers = self._model.layers
        block = sum(layer.kind is LayerKind.BLOCK for layer in layers[:index])
        tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
        return build_module(self._family, layers[index], block, tensors)

    def _apply(self, layer: Layer, module: nn.Module, state: Tensor) -> Tensor:
        """One row through one layer."""
        num_tokens = state.shape[-1] if layer.kind is LayerKind.EMBEDDING else state.shape[-2]
        positions_1N = torch.arange(num_tokens).unsqueeze(0)
        if layer.kind is LayerKind.EMBEDDING:
            return self._family.embed(module, state, positions_1N)
        if layer.kind is not LayerKind.BLOCK:
            result: Tensor = module(state)
            return result
        config = self._family.config
        num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        kv = ContiguousKv([num_heads], layer.kv_elements_per_token // (2 * num_heads))
        hidden: Tensor = module(
            state,
            **self._family.block_arguments(positions_1N),
            rows=[kv.row(0, 0, 0, num_tokens)],
            block=0,
        )
        return hidden


class _Listener:
    """Hears the inputs (N, I) that each matrix of a layer is multiplied by; several matrices may
    share them. A context manager: outside it hears nothing."""

    def __init__(self, layer: Layer, prefix: str, module: nn.Module) -> None:
        self.heard: list[tuple[list[str], Tensor]] = []
        wanted = {p.name for p in layer.parameters if len(p.shape) == 2}
        self._handles = [
            child.register_forward_pre_hook(self._hook(f"{prefix}{path}.weight"))
            for path, child in module.named_modules()
            if f"{prefix}{path}.weight" in wanted
        ]

    def _hook(self, name: str) -> Any:
        def hear(child: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs = arguments[0]
            # What was heard is still held, so that no other tensor can be at its address.
            for names, other in self.heard:
                if other.data_ptr() == inputs.data_ptr() and other.shape[-1] == inputs.shape[-1]:
                    names.append(name)
                    return
            self.heard.append(([name], inputs.reshape(-1, inputs.shape[-1])))

        return hear

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
