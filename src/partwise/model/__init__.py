"""What is deployed: a model described from its config and file headers, without weights.

Pure: reads no weights and imports no tensor library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from partwise.errors import ModelError
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
from partwise.model.families.stored import NoFiles
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
    "describe_config",
    "open_model",
    "read_config",
    "read_headers",
]

_STORED = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def describe_config(config: Mapping[str, object], name: str) -> Model:
    """The model called ``name`` that the content of a config.json describes, without its files.

    Enough to plan with: a model that is not downloaded yet, or does not exist. Its tensors are
    taken to be stored in the config's ``dtype`` (``torch_dtype``; neither: float32).

    Raises:
        ModelError: something that partwise does not support.
        UnknownArchitecture: no family adapter for it.
        DamagedModel: values in it contradict each other.
    """
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if dtype not in _STORED:
        raise ModelError(
            f"config.json has dtype = {dtype!r}, weights are in {', '.join(_STORED)}: give one of"
            " these"
        )
    return find_family(config).describe(config, NoFiles(dtype=_STORED[dtype]), name)


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
