from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

DTYPE_OF = {"float32": "F32", "float16": "F16", "float64": "F64", "uint16": "BF16", "int64": "I64"}

WriteModel = Callable[[Path, Mapping[str, np.ndarray]], Path]


@pytest.fixture(scope="session")
def write_model() -> WriteModel:
    """Writes a safetensors file by hand; uint16 arrays are the bits of BF16."""

    def write(directory: Path, arrays: Mapping[str, np.ndarray]) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        header, start = {}, 0
        for name, array in arrays.items():
            span = [start, start + array.nbytes]
            dtype = DTYPE_OF[array.dtype.name]
            header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
            start += array.nbytes
        text = json.dumps(header).encode()
        data = b"".join(array.tobytes() for array in arrays.values())
        path = directory / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return directory

    return write


@pytest.fixture
def flip_byte() -> Callable[[Path, int], None]:
    def flip(path: Path, offset: int) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    return flip
