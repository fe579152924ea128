"""What is deployed: a model described from its config and file headers, without weights.

Pure: reads no weights and imports no tensor library.
"""

from __future__ import annotations

from pathlib import Path

from partwise.model.description import (
    CutTensor,
    Layer,
    LayerKind,
    Model,
    NeuronAxis,
    NeuronKind,
    Parameter,
)
from partwise.model.families import find_family
from partwise.model.headers import TensorEntry, read_config, read_headers

__all__ = [
    "CutTensor",
    "Layer",
    "LayerKind",
    "Model",
    "NeuronAxis",
    "NeuronKind",
    "Parameter",
    "TensorEntry",
    "open_model",
    "read_config",
    "read_headers",
]


def open_model(path: str | Path) -> Model:
    """The model in a Hugging Face directory, named after it.

    Raises:
        ModelError: no such directory, or something in it that partwise does not support.
        UnknownArchitecture: no family adapter for it.
        DamagedModel: files are missing, truncated or contradict each other.
    """
    directory = Path(path)
    config = read_config(directory)
    family = find_family(config)
    entries = read_headers(directory)
    return family.describe(config, entries, directory.resolve().name)
