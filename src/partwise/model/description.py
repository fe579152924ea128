"""What is deployed: a model as layers of parameters, and the neurons inside them.

Everything here is a value. Nothing reads weights; see `headers.py` for where sizes come
from and `families/` for what one architecture calls its layers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one element by the name safetensors gives its dtype; only these hold weights."""


class LayerKind(StrEnum):
    """What one step of a model is."""

    EMBEDDING = "embedding"
    BLOCK = "block"
    NORM = "norm"
    HEAD = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronAxis:
    """Where the neurons of one kind lie in one parameter.

    Neuron i owns elements ``offset + (i - first) * width : offset + (i - first + 1) * width``
    along ``axis``. ``first`` is the first neuron that the parameter holds elements of: not 0
    where the neurons of a kind lie in several parameters, as experts do, each in its own.
    """

    kind: str
    axis: int
    width: int
    offset: int = 0
    first: int = 0


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One tensor of a layer.

    ``alias_of`` names the parameter whose bytes this one shares (tied weights): it is then
    not stored a second time. ``stored_as`` is the name in the files where it is not
    ``alias_of`` or ``name``. A parameter without ``neurons`` cannot be split: members of a
    stage replicate it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    neurons: tuple[NeuronAxis, ...] = ()
    alias_of: str | None = None
    stored_as: str | None = None

    @cached_property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_name(self) -> str:
        """The name under which the store holds its bytes."""
        return self.stored_as or self.alias_of or self.name

    @cached_property
    def neuron_span(self) -> tuple[int, int]:
        """The neurons ``start:stop`` that it holds elements of, all of one kind and along one axis;
        none where it has no neurons."""
        if not self.neurons:
            return 0, 0
        first = self.neurons[0]
        count = self.shape[first.axis] // sum(axis.width for axis in self.neurons)
        return first.first, first.first + count

    @cached_property
    def neuron_elements(self) -> int:
        """The elements of one of its neurons; 0 where it has none."""
        start, stop = self.neuron_span
        return self.num_elements // (stop - start) if stop > start else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronKind:
    """The smallest units that can be owned inside a layer, all of one kind and size.

    ``num_chosen`` of them compute a token, those that a router chooses for it; None: all do.
    """

    name: str
    count: int
    num_chosen: int | None = None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One step of the model.

    ``macs_per_token`` counts multiply-accumulates with its weights (attention over the past
    not included). ``read_elements_per_token`` are the weight elements that one decoded token
    reads: all of them, but one row of a table that is only looked up, and of neurons that a
    router chooses from those chosen.
    """

    name: str
    kind: LayerKind
    parameters: tuple[Parameter, ...]
    neuron_kinds: tuple[NeuronKind, ...] = ()
    macs_per_token: int = 0
    read_elements_per_token: int = 0
    kv_elements_per_token: int = 0

    @cached_property
    def num_elements(self) -> int:
        return sum(p.num_elements for p in self.parameters)

    @cached_property
    def chosen_kind(self) -> NeuronKind | None:
        """The neurons of which a router chooses some for each token."""
        return next((kind for kind in self.neuron_kinds if kind.num_chosen is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutTensor:
    """A tensor that crosses a cut: shape (tokens, width), or where ``shape`` says it, that one,
    with None for an axis that grows with the batch and ``width`` elements for each of its rows."""

    name: str
    width: int
    shape: tuple[int | None, ...] | None = None
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model described without its weights.

    ``version`` is that of its parameters in the store: 0 are the model's own files. ``layers`` are
    in topological order; cut i lies before layer i, and ``cut_tensors`` cross
    each of them (the hidden state alone, in all families). In a captured module each cut has its
    own: ``cuts``, with that after the last layer; ``cut_tensors`` are then as wide as the widest.
    ``config_digest`` stands for the values in its config, from which runners build its layers.
    ``features`` say to people what it asks for that operators made for its architecture may lack.
    """

    name: str
    architecture: str
    layers: tuple[Layer, ...]
    cut_tensors: tuple[CutTensor, ...]
    context_tokens: int
    vocab_size: int
    hidden_size: int
    config_digest: str
    version: int = 0
    features: tuple[str, ...] = ()
    cuts: tuple[tuple[CutTensor, ...], ...] = ()

    def cut_at(self, index: int) -> tuple[CutTensor, ...]:
        """The tensors that cross the cut before layer ``index``."""
        return self.cuts[index] if self.cuts else self.cut_tensors

    @cached_property
    def num_parameters(self) -> int:
        """Elements of all parameters; tied ones count once."""
        return sum(p.num_elements for p in self.parameters if p.alias_of is None)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(p for layer in self.layers for p in layer.parameters)

    @cached_property
    def shares_by_row_width(self) -> tuple[tuple[int, float], ...]:
        """Of all matrices that are multiplied, by ascending number of weights in one of their
        rows: that number, and the share of all weights that lies in such matrices."""
        elements: Counter[int] = Counter()
        for layer in self.layers:
            if layer.macs_per_token:
                for parameter in layer.parameters:
                    if len(parameter.shape) == 2:
                        elements[parameter.shape[1]] += parameter.num_elements
        total = elements.total()
        return tuple((width, count / total) for width, count in sorted(elements.items()))

    @property
    def num_blocks(self) -> int:
        return sum(layer.kind is LayerKind.BLOCK for layer in self.layers)

    @cached_property
    def alike(self) -> tuple[int, ...]:
        """For each layer the first that differs from it in names alone."""
        aliased = {p.alias_of for p in self.parameters if p.alias_of is not None}
        first: dict[object, int] = {}
        return tuple(
            first.setdefault(_describe(layer, aliased), i) for i, layer in enumerate(self.layers)
        )

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what makes it this model for a plan and for runners, weights aside: names,
        shapes, dtypes and aliases, and its config."""
        rows = [[p.name, list(p.shape), p.dtype, p.alias_of] for p in self.parameters]
        text = json.dumps([self.architecture, self.context_tokens, self.config_digest, rows])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def describe_range(self, start: int, stop: int) -> str:
        """Layers ``start:stop`` as a person reads them, e.g. ``embedding + blocks 0:10``."""
        words: list[str] = []
        blocks = [i for i in range(start, stop) if self.layers[i].kind is LayerKind.BLOCK]
        first_block = next(
            i for i, layer in enumerate(self.layers) if layer.kind is LayerKind.BLOCK
        )
        for i in range(start, stop):
            if self.layers[i].kind is not LayerKind.BLOCK:
                words.append(str(self.layers[i].kind))
            elif i == blocks[0]:
                words.append(f"blocks {i - first_block}:{blocks[-1] + 1 - first_block}")
        return " + ".join(words)


def _describe(layer: Layer, aliased: AbstractSet[str]) -> object:
    """All of a layer but names."""
    parameters = tuple(
        (p.shape, p.dtype, p.neurons, p.alias_of is not None, p.name in aliased)
        for p in layer.parameters
    )
    counted = (layer.macs_per_token, layer.read_elements_per_token, layer.kv_elements_per_token)
    return layer.kind, layer.neuron_kinds, counted, parameters
