"""What a directory's headers say, and every way in which they can lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from partwise.errors import DamagedModel, ModelError
from partwise.model.headers import read_config, read_headers

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TWO = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def pack(header: Any, num_data_bytes: int = 32) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(num_data_bytes)


def with_field(name: str, **fields: Any) -> dict[str, Any]:
    return TWO | {name: TWO[name] | fields}


def write_shards(directory: Path, weight_map: dict[str, str]) -> None:
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    for name, row in TWO.items():
        entry = row | {"data_offsets": [0, 24 if name == "a" else 8]}
        data = pack({name: entry}, num_data_bytes=entry["data_offsets"][1])
        (directory / f"{name}.safetensors").write_bytes(data)


def test_entries_point_at_the_bytes_that_the_safetensors_library_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "x": rng.standard_normal((3, 5)).astype(np.float32),
        "y": rng.standard_normal(7).astype(np.float16),
        "scalar": np.array(2.0, dtype=np.float64),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    entries = read_headers(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    assert entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        entry = entries[name]
        found = data[entry.offset : entry.offset + entry.num_bytes]
        assert (entry.name, entry.shape, entry.file) == (name, tensor.shape, tmp_path / FILE)
        assert found == tensor.tobytes()


def test_shards_are_joined_by_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    entries = read_headers(tmp_path)
    assert {name: entry.file.name for name, entry in entries.items()} == {
        "a": "a.safetensors",
        "b": "b.safetensors",
    }
    assert entries["b"].shape == (4,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "is truncated: expected 8 bytes, found 3"),
        (pack(TWO)[:40], r"is truncated: expected \d+ bytes, found 40"),
        (pack(TWO)[:-1], r"is truncated: expected (\d+) bytes, found \d+; download it again"),
        (pack(TWO) + b"x", r"has \d+ bytes, its header describes"),
        ((100_000_001).to_bytes(8, "little"), "header of 100000001 bytes, the limit is 100000000"),
        (pack(b"{]"), "does not hold valid JSON"),
        (pack(b"\xff\xfe"), "does not hold valid JSON"),
        (pack(b"[" * 200_000), "does not hold valid JSON"),
        (pack([1]), "does not hold a JSON object"),
        (pack(b'{"a": 1, "b": 2, "a": 3}'), "'a' is given twice"),
        (pack(TWO | {"a": 3}), "'a' without a dtype"),
        (pack(with_field("a", shape=[2, -3])), "'a' without a dtype"),
        (pack(with_field("a", shape=[2, True])), "'a' without a dtype"),
        (pack(with_field("a", data_offsets=[0])), "'a' without a dtype"),
        (pack(with_field("a", dtype="Q4")), "'a' the dtype 'Q4', known are"),
        (pack(with_field("a", shape=[2, 4])), r"24 bytes, its shape \[2, 4\] of F32 needs 32"),
        (pack(with_field("b", data_offsets=[16, 24]), 24), "'b' overlaps the tensor before it"),
        (pack(with_field("b", data_offsets=[25, 33]), 33), "'b' follows a hole"),
        (pack(with_field("b", data_offsets=[24, 16])), "-8 bytes, its shape"),
        (pack(with_field("b", data_offsets=[10**20, 10**20 + 8])), "'b' follows a hole"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DamagedModel, match=message) as caught:
        read_headers(tmp_path)
    assert FILE in str(caught.value)


@given(position=st.integers(0, 200), value=st.integers(0, 255), cut=st.integers(0, 250))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_damaged_byte_or_cut_is_read_or_refused_but_never_crashes(
    tmp_path: Path, position: int, value: int, cut: int
) -> None:
    data = bytearray(pack(TWO))
    data[position % len(data)] = value
    (tmp_path / FILE).write_bytes(data[: max(len(data) - cut, 0)])
    try:
        entries = read_headers(tmp_path)
    except DamagedModel:
        return
    assert sum(entry.num_bytes for entry in entries.values()) == 32


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"a": "a.safetensors", "b": "c.safetensors"},
            "c.safetensors is missing: .* expects 1 tensors in it, found no file; download",
        ),
        ({"a": "a.safetensors", "b": "a.safetensors"}, "names tensor 'b' in .*a.safetensors"),
        ({"a": "b.safetensors", "b": "b.safetensors"}, "names tensor 'a' in .*b.safetensors"),
        ({"a": "a.safetensors", "c": "b.safetensors"}, "names tensor 'c' in .*b.safetensors"),
        ({"a": "../a.safetensors"}, "which is not the name of a file beside it"),
        ({"a": "/etc/passwd"}, "which is not the name of a file beside it"),
        ({"a": 3}, "which is not the name of a file beside it"),
        ({}, "has no weight_map"),
    ],
)
def test_an_index_that_its_shards_contradict_is_refused(
    tmp_path: Path, weight_map: dict[str, str], message: str
) -> None:
    write_shards(tmp_path, weight_map)
    with pytest.raises(DamagedModel, match=message):
        read_headers(tmp_path)


def test_a_tensor_that_the_index_omits_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "a.safetensors"})
    (tmp_path / "a.safetensors").write_bytes(pack(TWO))
    with pytest.raises(DamagedModel, match="holds tensor 'b', which"):
        read_headers(tmp_path)


def test_a_truncated_shard_is_named_with_both_sizes(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    shard = tmp_path / "b.safetensors"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(
        DamagedModel, match=rf"b\.safetensors is truncated: expected {size} bytes, found {size - 3}"
    ):
        read_headers(tmp_path)


def test_a_directory_without_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither .*: save the model as safetensors"):
        read_headers(tmp_path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ModelError, "has no config.json"),
        ("{", DamagedModel, "config.json does not hold valid JSON"),
        ("3", DamagedModel, "config.json does not hold a JSON object"),
    ],
)
def test_a_bad_config_is_refused(
    tmp_path: Path, content: str | None, error: type[ModelError], message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        read_config(tmp_path)


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model directory .*absent"):
        read_config(tmp_path / "absent")
