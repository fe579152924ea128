"""A captured module in a directory: ``graph.json``, and its states in ``model.safetensors``.

Servers open the directory; the store reads and digests its tensors. Those that are no fp32, fp16
or bf16 numbers lie there as bytes. Beside a weight with zeros lies which of its (output, input)
pairs have none, a bit each: from these follows who needs which neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from partwise.capture.graph import Graph, State, decode_graph, encode_graph
from partwise.capture.validate import check_graph
from partwise.errors import DamagedModel, ModelError, StoreError
from partwise.store import Store

if TYPE_CHECKING:
    import torch

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "model.safetensors"
NONZERO = "#nonzero"
READ_AS_FP32 = ("float32", "float16", "bfloat16")
MIN_PATTERN_DIMS = 2

Pattern = NDArray[np.bool_]
"""Which (output, input) pairs of a weight are not zero."""


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A captured module in the directory ``path``."""

    path: Path
    graph: Graph


def is_captured(path: Path) -> bool:
    """Whether the directory holds a captured module."""
    return (path / GRAPH_FILE).is_file()


def save_captured(graph: Graph, tensors: Mapping[str, torch.Tensor], path: Path) -> Captured:
    """Write a captured module to the directory ``path``, made if needed.

    Raises:
        ModelError: it cannot be written.
    """
    from safetensors.torch import save_file

    stored = {}
    for state in graph.states:
        tensor = tensors[state.name].detach().cpu().contiguous().clone()
        stored[state.name] = tensor if state.dtype in READ_AS_FP32 else _as_bytes(tensor)
        if (pattern := _find_pattern(state, tensor)) is not None:
            stored[state.name + NONZERO] = pattern
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_file(stored, path / WEIGHTS_FILE)
        (path / GRAPH_FILE).write_bytes(encode_graph(graph))
    except OSError as exc:
        raise ModelError(f"cannot write the captured module to {path}: {exc.strerror}") from exc
    return Captured(path=path, graph=graph)


def open_captured(path: Path) -> Captured:
    """The captured module in the directory ``path``, checked to hold nothing but what the table
    lists.

    Raises:
        DamagedModel: it holds none, or one that this partwise does not compute.
    """
    try:
        data = (path / GRAPH_FILE).read_bytes()
    except OSError as exc:
        raise DamagedModel(
            f"cannot read the captured module in {path}: {exc.strerror}; capture it again"
        ) from exc
    graph = decode_graph(data)
    check_graph(graph)
    return Captured(path=path, graph=graph)


def read_patterns(graph: Graph, store: Store) -> dict[str, Pattern]:
    """By parameter, which pairs of its outputs and inputs are not zero, where some are.

    Raises:
        StoreError: as `Store.read`.
    """
    patterns = {}
    for state in graph.states:
        name = state.name + NONZERO
        if name in store.manifest.tensors:
            bits = np.unpackbits(store.read_bytes(name))
            num_pairs = state.shape[0] * state.shape[1]
            if len(bits) < num_pairs:
                raise StoreError(f"{name} has {len(bits)} bits, {num_pairs} are needed")
            patterns[state.name] = bits[:num_pairs].reshape(state.shape[:2]).astype(bool)
    return patterns


def _as_bytes(tensor: torch.Tensor) -> Any:
    import torch

    return tensor.reshape(-1).view(torch.uint8)


def _find_pattern(state: State, tensor: torch.Tensor) -> Any:
    """Its pattern as bits, where it is a weight with zeros."""
    import torch

    if not state.is_parameter or tensor.ndim < MIN_PATTERN_DIMS or not tensor.is_floating_point():
        return None
    is_used = tensor.ne(0).flatten(2).any(-1) if tensor.ndim > MIN_PATTERN_DIMS else tensor.ne(0)
    if bool(is_used.all()):
        return None
    return torch.from_numpy(np.packbits(is_used.numpy()))
