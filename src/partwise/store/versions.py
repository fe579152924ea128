"""The versions of a model's parameters: finding one, and describing the model as it is there.

Writing one is another file's work; see `writer.py`.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from partwise.errors import StoreError
from partwise.model import Model, TensorEntry, open_model, read_config
from partwise.model.families import find_family
from partwise.store.location import roots_of
from partwise.store.manifest import MANIFEST_NAME, Manifest, read_manifest


def list_versions(model: Path) -> list[Manifest]:
    """The versions that were made from a model directory, in order; 0 is not among them.

    Raises:
        StoreError: a manifest is torn, or cannot be read.
    """
    found: dict[int, Manifest] = {}
    for root in roots_of(model):
        for path in sorted((root / "versions").glob(f"*/{MANIFEST_NAME}")):
            manifest = read_manifest(path)
            if manifest is not None and manifest.version:
                found.setdefault(manifest.version, manifest)
    return [found[number] for number in sorted(found)]


def find_version(model: Path, version: int) -> tuple[Path, Manifest]:
    """The folder and the manifest of a version that was made from ``model``.

    Raises:
        StoreError: there is none of that number; names those that there are.
    """
    for root in roots_of(model):
        folder = root / "versions" / f"{version:08d}"
        manifest = read_manifest(folder / MANIFEST_NAME)
        if manifest is not None and manifest.derivation:
            return folder, manifest
    known = ", ".join(str(manifest.version) for manifest in list_versions(model))
    raise StoreError(
        f"{model} has no version {version}: it has 0{', ' + known if known else ''};"
        " `partwise compress` makes one"
    )


def read_version_config(model: Path, manifest: Manifest) -> dict[str, object]:
    """The content of config.json as it is for a version.

    Raises:
        ModelError: there is no valid config.json.
    """
    config = read_config(model)
    if manifest.derivation:
        config |= manifest.derivation.config
    return config


def open_version(model: str | Path, version: int) -> Model:
    """The model in a Hugging Face directory as it is in ``version`` of its store.

    Raises:
        ModelError: as `open_model`.
        StoreError: there is no such version.
    """
    if version == 0:
        return open_model(model)
    path = Path(model)
    config = read_config(path)
    _, manifest = find_version(path, version)
    config = read_version_config(path, manifest)
    described = find_family(config).describe(config, _entries(manifest), path.resolve().name)
    return dataclasses.replace(described, version=version)


def _entries(manifest: Manifest) -> dict[str, TensorEntry]:
    """The parameters by name, as a family reads them: quantised ones as the fp32 that they give."""
    quantized = manifest.quantized
    hidden = {name + suffix for name, q in quantized.items() for suffix in q.suffixes}
    entries = {
        name: TensorEntry(
            name=name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            file=Path(tensor.file),
            offset=tensor.offset,
            num_bytes=tensor.num_bytes,
        )
        for name, tensor in manifest.tensors.items()
        if name not in hidden
    }
    for name, tensor in quantized.items():
        packed = manifest.tensors[f"{name}.packed"]
        entries[name] = TensorEntry(
            name=name,
            dtype="F32",
            shape=tensor.shape,
            file=Path(packed.file),
            offset=packed.offset,
            num_bytes=4 * math.prod(tensor.shape),
        )
    return entries
