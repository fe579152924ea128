from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from partwise.errors import DamagedModel, ModelError, StoreError
from partwise.store import Store, new_version
from partwise.store.manifest import encode_manifest, read_manifest, refer_to


def test_version_0_refers_to_the_tensors_and_copies_nothing(tmp_path: Path, write_model) -> None:
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.float16)}
    store = Store.open(write_model(tmp_path, arrays))
    shard = (tmp_path / "model.safetensors").stat().st_size
    assert [(s.file, s.num_bytes) for s in store.manifest.shards] == [("model.safetensors", shard)]
    tensor = store.manifest.tensors["b"]
    assert (tensor.offset, tensor.num_bytes) == (shard - 10, 10)
    assert (tensor.dtype, tensor.shape) == ("F16", (5,))
    assert store.manifest.version == 0
    kept = sum(path.stat().st_size for path in store.location.iterdir())
    assert kept < 4096


def test_the_manifest_survives_its_json(tmp_path: Path, write_model) -> None:
    manifest = refer_to(write_model(tmp_path, {"a": np.zeros((2, 3), np.float32)}))
    (tmp_path / "manifest.json").write_bytes(encode_manifest(manifest))
    assert read_manifest(tmp_path / "manifest.json") == manifest


def test_a_model_of_several_shards_is_read_from_all(tmp_path: Path) -> None:
    save_file({"a": np.arange(4, dtype=np.float32)}, tmp_path / "1.safetensors")
    save_file({"b": np.arange(9, dtype=np.float32)}, tmp_path / "2.safetensors")
    index = '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with Store.open(tmp_path) as store:
        assert [s.file for s in store.manifest.shards] == ["1.safetensors", "2.safetensors"]
        assert store.read("b", (slice(7, 9),)).tolist() == [7, 8]
        assert store.read("a").tolist() == [0, 1, 2, 3]


def test_changed_headers_make_the_manifest_anew_without_its_digests(
    tmp_path: Path, write_model
) -> None:
    with Store.open(write_model(tmp_path, {"a": np.zeros(8, np.float32)})) as store:
        store.read("a")
    before = store.manifest
    assert (store.location / "digests.json").is_file()
    write_model(tmp_path, {"a": np.ones((2, 4), np.float32)})
    with Store.open(tmp_path) as store:
        assert store.manifest != before
        assert not (store.location / "digests.json").exists()
        assert store.read("a").tolist() == [[1] * 4] * 2
    assert read_manifest(store.location / "manifest.json") == store.manifest


def test_unchanged_headers_leave_the_manifest_as_it_is(tmp_path: Path, write_model) -> None:
    path = Store.open(write_model(tmp_path, {"a": np.zeros(8, np.float32)})).location
    before = (path / "manifest.json").stat().st_mtime_ns
    Store.open(tmp_path)
    assert (path / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1, "vers', "is not a manifest"),
        (b"\xff\xfe", "is not a manifest"),
        (b'{"format": 1, "version": 0, "shards": [], "tensors": {}, "more": 1}', "more"),
        (b'{"format": 7, "version": 0, "shards": [], "tensors": {}}', "has format 7"),
    ],
)
def test_an_invalid_manifest_is_an_error_with_advice(
    tmp_path: Path, write_model, content: bytes, message: str
) -> None:
    store = Store.open(write_model(tmp_path, {"a": np.zeros(8, np.float32)}))
    (store.location / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=rf"{message}.*delete the folder"):
        Store.open(tmp_path)


@pytest.mark.parametrize("content", [b'{"format": 1, "vers', b'{"format": 7}'])
def test_a_later_versions_manifest_is_not_said_to_be_made_again(
    tmp_path: Path, write_model, content: bytes
) -> None:
    write_model(tmp_path, {"a": np.zeros(8, np.float32)})
    with Store.open(tmp_path) as source, new_version(tmp_path, source) as writer:
        writer.keep("a")
        writer.commit("a recipe", {})
    (tmp_path / ".partwise" / "versions" / "00000001" / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"restore it from a copy, .*compress again") as caught:
        Store.open(tmp_path, 1)
    assert "made again" not in str(caught.value)


def test_opening_a_directory_without_a_model_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        Store.open(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_shard_is_found_when_the_model_is_opened(tmp_path: Path, write_model) -> None:
    path = write_model(tmp_path, {"a": np.zeros(8, np.float32)}) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedModel, match="truncated"):
        Store.open(tmp_path)
