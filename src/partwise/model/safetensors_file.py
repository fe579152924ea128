"""The header of one safetensors file: where each tensor's bytes lie.

Reads the header alone and proves that it describes the file to the last byte. It reads no
weights and knows nothing about shards; see `headers.py`.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from partwise.errors import DamagedModel
from partwise.model.description import DTYPE_BYTES
from partwise.model.json_object import parse_object

HEADER_LIMIT_BYTES = 100_000_000
"""The safetensors library refuses longer headers."""

_LENGTH_BYTES = 8
_ELEMENT_BYTES = DTYPE_BYTES | {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "I32": 4,
    "U32": 4,
    "I64": 8,
    "U64": 8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor in a file: ``num_bytes`` bytes from ``offset``, counted from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    num_bytes: int


def read_file_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, by name.

    Raises:
        DamagedModel: the file is missing, truncated, or its header contradicts it.
    """
    header, data_start, file_bytes = _load(path)
    entries = {}
    for name, row in header.items():
        if name != "__metadata__":
            entries[name] = _entry(path, name, row, data_start)
    _check_layout(path, entries, data_start, file_bytes)
    return entries


def _load(path: Path) -> tuple[Mapping[str, object], int, int]:
    try:
        with path.open("rb") as file:
            file_bytes = path.stat().st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            stop = _LENGTH_BYTES + length
            if file_bytes < _LENGTH_BYTES:
                raise _truncated(path, _LENGTH_BYTES, file_bytes)
            if length > HEADER_LIMIT_BYTES:
                raise DamagedModel(
                    f"{path} claims a header of {length} bytes, the limit is"
                    f" {HEADER_LIMIT_BYTES}: it is not a safetensors file, download it again"
                )
            if file_bytes < stop:
                raise _truncated(path, stop, file_bytes)
            return parse_object(file.read(length), str(path)), stop, file_bytes
    except OSError as exc:
        raise DamagedModel(f"cannot read {path}: {exc.strerror}; download it again") from exc


def _entry(path: Path, name: str, row: object, data_start: int) -> TensorEntry:
    fields: dict[str, object] = row if isinstance(row, dict) else {}
    dtype, shape, span = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or not _is_sizes(shape) or not _is_sizes(span) or len(span) != 2:
        raise DamagedModel(
            f"{path} describes tensor {name!r} without a dtype, a shape and two data_offsets:"
            " download it again"
        )
    if dtype not in _ELEMENT_BYTES:
        raise DamagedModel(
            f"{path} gives tensor {name!r} the dtype {dtype!r}, known are"
            f" {', '.join(_ELEMENT_BYTES)}: take a copy of the model in one of them"
        )
    num_bytes = span[1] - span[0]
    expected = math.prod(shape) * _ELEMENT_BYTES[dtype]
    if num_bytes != expected:
        raise DamagedModel(
            f"{path} gives tensor {name!r} {num_bytes} bytes, its shape {list(shape)} of {dtype}"
            f" needs {expected}: download it again"
        )
    offset = data_start + span[0]
    return TensorEntry(
        name=name, dtype=dtype, shape=tuple(shape), file=path, offset=offset, num_bytes=num_bytes
    )


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_layout(
    path: Path, entries: Mapping[str, TensorEntry], data_start: int, file_bytes: int
) -> None:
    """Refuse tensors that overlap, leave a hole, or do not end where the file ends."""
    stop = data_start
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.num_bytes)):
        if entry.offset != stop:
            what = "overlaps the tensor before it" if entry.offset < stop else "follows a hole"
            raise DamagedModel(
                f"{path}: tensor {entry.name!r} {what} (it starts at byte {entry.offset},"
                f" expected {stop}): download it again"
            )
        stop += entry.num_bytes
    if file_bytes < stop:
        raise _truncated(path, stop, file_bytes)
    if file_bytes > stop:
        raise DamagedModel(
            f"{path} has {file_bytes} bytes, its header describes {stop}: download it again"
        )


def _truncated(path: Path, expected: int, found: int) -> DamagedModel:
    return DamagedModel(
        f"{path} is truncated: expected {expected} bytes, found {found}; download it again"
    )
