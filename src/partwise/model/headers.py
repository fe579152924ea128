"""What a Hugging Face directory holds: its config, and where each tensor's bytes lie.

Reads `config.json`, the index and the headers of the shards. It reads no weights and does
not know what the tensors mean; see `families/`.
"""

from __future__ import annotations

from pathlib import Path

from partwise.errors import DamagedModel, ModelError
from partwise.model.json_object import parse_object
from partwise.model.safetensors_file import TensorEntry, read_file_header

__all__ = ["TensorEntry", "read_config", "read_headers"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def read_config(directory: Path) -> dict[str, object]:
    """The content of ``config.json``.

    Raises:
        ModelError: there is no such directory, no config in it, or it may not be entered.
        DamagedModel: the config is not JSON.
    """
    path = directory / "config.json"
    try:
        is_there, has_config = directory.is_dir(), path.is_file()
    except OSError as exc:
        raise ModelError(
            f"cannot look into the model directory {str(directory)[:200]!r}: {exc.strerror};"
            " give a path that this user may read"
        ) from exc
    if not is_there:
        raise ModelError(
            f"no model directory {str(directory)!r}: give the path of a directory with"
            " config.json and safetensors files (download the model first)"
        )
    if not has_config:
        raise ModelError(
            f"{directory} has no config.json: give the path of a Hugging Face model directory"
        )
    return parse_object(_read(path), str(path))


def read_headers(directory: Path) -> dict[str, TensorEntry]:
    """Every tensor of the model by its name in the files, from one file or from shards.

    Raises:
        ModelError: the directory holds no safetensors weights.
        DamagedModel: a shard is missing, truncated, or contradicts its header or the index.
    """
    # transformers, too, prefers the single file where both stand.
    if (directory / SINGLE_FILE).is_file():
        return read_file_header(directory / SINGLE_FILE)
    if (directory / INDEX_FILE).is_file():
        return _read_shards(directory)
    raise ModelError(
        f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}: save the model as safetensors"
        " (transformers: model.save_pretrained)"
    )


def _read_shards(directory: Path) -> dict[str, TensorEntry]:
    index = directory / INDEX_FILE
    shard_of = _weight_map(index)
    entries: dict[str, TensorEntry] = {}
    for shard in sorted(set(shard_of.values())):
        path = directory / shard
        expected = {name for name, file in shard_of.items() if file == shard}
        if not path.is_file():
            raise DamagedModel(
                f"shard {path} is missing: {INDEX_FILE} expects {len(expected)} tensors in it,"
                " found no file; download it again"
            )
        found = read_file_header(path)
        _check_shard(path, expected, set(found))
        entries |= found
    return entries


def _check_shard(path: Path, expected: set[str], found: set[str]) -> None:
    if expected - found:
        raise DamagedModel(
            f"{INDEX_FILE} names tensor {min(expected - found)!r} in {path}, which does not hold"
            f" it (expected {len(expected)} tensors, found {len(found)}): download both again"
        )
    if found - expected:
        raise DamagedModel(
            f"{path} holds tensor {min(found - expected)!r}, which {INDEX_FILE} does not place"
            f" there (expected {len(expected)} tensors, found {len(found)}): download both again"
        )


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor. File names stay inside the directory."""
    weight_map = parse_object(_read(index), str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedModel(f"{index} has no weight_map: download it again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise DamagedModel(
                f"{index} places tensor {name!r} in {file!r}, which is not the name of a file"
                " beside it: download it again"
            )
    return weight_map


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DamagedModel(f"cannot read {path}: {exc.strerror}; download it again") from exc
