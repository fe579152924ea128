"""A version exists whole or not at all, and the versions before it stay as they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from partwise.compress.blocks import dequantize, quantize
from partwise.errors import DigestMismatch, StoreError
from partwise.store import Store, list_versions, location, new_version
from partwise.store import writer as writer_module

WEIGHT = np.random.default_rng(0).normal(size=(12, 96)).astype(np.float32)
QUANTIZED = quantize(WEIGHT, bits=4, block=32, is_symmetric=False)


@pytest.fixture
def model(tmp_path: Path, write_model) -> Path:
    return write_model(tmp_path / "model", {"w": WEIGHT, "n": np.arange(6, dtype=np.float32)})


def commit(model: Path, version: int = 0) -> int:
    """Quantise ``w``, keep ``n``."""
    with Store.open(model, version) as source, new_version(model, source) as writer:
        writer.write("layer-0", {"w": QUANTIZED})
        writer.keep("n")
        return writer.commit("a recipe", {"partwise_recipe": "a recipe"}).version


def folders(model: Path) -> list[str]:
    return sorted(p.name for p in (model / ".partwise" / "versions").iterdir() if p.is_dir())


def test_a_version_holds_what_was_written_and_refers_to_what_was_kept(model: Path) -> None:
    assert commit(model) == 1
    with Store.open(model, 1) as store:
        np.testing.assert_array_equal(store.read("w"), dequantize(QUANTIZED))
        assert store.read("n").tolist() == [0, 1, 2, 3, 4, 5]
        assert store.manifest.tensors["n"].file == "model.safetensors"
        assert store.num_bytes("w") == QUANTIZED.num_bytes
    with Store.open(model) as store:
        np.testing.assert_array_equal(store.read("w"), WEIGHT)


def test_a_matrix_is_read_as_it_is_stored_and_by_rows(model: Path) -> None:
    commit(model)
    with Store.open(model, 1) as store:
        whole = store.read_quantized("w")
        assert whole is not None
        np.testing.assert_array_equal(whole.packed, QUANTIZED.packed)
        np.testing.assert_array_equal(whole.scales, QUANTIZED.scales)
        np.testing.assert_array_equal(whole.zero_points, QUANTIZED.zero_points)
        rows = store.read_quantized("w", 3, 7)
        assert rows is not None
        np.testing.assert_array_equal(dequantize(rows), dequantize(QUANTIZED)[3:7])
        part = store.read("w", (slice(2, 5), slice(10, 50)))
        np.testing.assert_array_equal(part, dequantize(QUANTIZED)[2:5, 10:50])
        assert part.flags.c_contiguous
        assert part.ctypes.data % 64 == 0
        assert store.read_quantized("n") is None


def test_every_byte_of_a_new_version_is_checked_when_it_is_first_read(
    model: Path, flip_byte
) -> None:
    commit(model)
    with Store.open(model, 1) as store:
        tensor = store.manifest.tensors["w.scales"]
    flip_byte(model / tensor.file, tensor.offset + 5)
    with Store.open(model, 1) as store, pytest.raises(DigestMismatch, match=r"w\.scales"):
        store.read("w")


def test_a_kept_tensor_that_changes_afterwards_is_noticed(model: Path, flip_byte) -> None:
    commit(model)
    with Store.open(model, 1) as store:
        tensor = store.manifest.tensors["n"]
    flip_byte(model / "model.safetensors", tensor.offset)
    with Store.open(model, 1) as store, pytest.raises(DigestMismatch, match="'n'"):
        store.read("n")


def test_a_version_that_is_not_committed_leaves_nothing(model: Path) -> None:
    with Store.open(model) as source, new_version(model, source) as writer:
        writer.write("layer-0", {"w": QUANTIZED})
    assert list_versions(model) == []
    assert folders(model) == ["00000000"]
    with pytest.raises(StoreError, match=r"has no version 1: it has 0;"):
        Store.open(model, 1)


def test_a_crash_between_shards_and_manifest_leaves_the_versions_before(model: Path) -> None:
    commit(model)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from partwise.store import Store, new_version, writer\n"
        "import numpy as np\n"
        "model = Path(sys.argv[1])\n"
        "def die(path, data): os.kill(os.getpid(), signal.SIGKILL)\n"
        "with new_version(model, Store.open(model)) as new:\n"
        "    new.write('layer-0', {'w': np.ones((2, 2), np.float32)})\n"
        "    writer.replace_file = die\n"
        "    new.commit('never', {})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, model], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert folders(model) == ["00000000", "00000001", "00000002"]
    assert [manifest.version for manifest in list_versions(model)] == [1]
    with Store.open(model, 1) as store:
        np.testing.assert_array_equal(store.read("w"), dequantize(QUANTIZED))
    # What it left is removed by the next writer, which does not take its number.
    assert commit(model) == 3
    assert folders(model) == ["00000000", "00000001", "00000003"]
    assert [manifest.version for manifest in list_versions(model)] == [1, 3]


def test_a_number_is_one_versions_in_every_place_where_readers_look(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert commit(model) == 1
    # As another user of the model has it, who may not write beside it.
    *_, cache = location.roots_of(model)
    (cache / "versions").mkdir(parents=True)
    versions = model / ".partwise" / "versions"
    (versions / "00000001").rename(cache / "versions" / "00000001")
    assert commit(model) == 2
    assert [manifest.version for manifest in list_versions(model)] == [1, 2]


def test_a_user_without_a_home_directory_can_write_beside_the_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("~")))
    assert (commit(model), commit(model)) == (1, 2)


def test_two_writers_at_once_make_two_versions(model: Path) -> None:
    source = Store.open(model)
    with new_version(model, source) as first, new_version(model, source) as second:
        for writer, value in ((second, 2), (first, 1)):
            writer.write("layer-0", {"w": np.full((2, 2), value, np.float32)})
            writer.keep("n")
            writer.commit(f"{value}", {})
    for version in (1, 2):
        assert Store.open(model, version).read("w").tolist() == [[version] * 2] * 2


def test_a_writer_whose_folder_was_given_to_another_cannot_commit(model: Path) -> None:
    with Store.open(model) as source, new_version(model, source) as writer:
        writer.write("layer-0", {"w": QUANTIZED})
        folder = model / ".partwise" / "versions" / "00000001"
        (folder / writer_module.CLAIM_NAME).write_text("another")
        with pytest.raises(StoreError, match="was taken from this writer"):
            writer.commit("a recipe", {})
    assert list_versions(model) == []


@pytest.mark.parametrize("step", ["write", "commit", "leave"])
def test_a_writer_that_was_thought_dead_leaves_its_successors_version_whole(
    model: Path, step: str
) -> None:
    versions = model / ".partwise" / "versions"
    with Store.open(model) as source, new_version(model, source) as first:
        first.write("layer-0", {"w": np.zeros((2, 2), np.float32)})
        # As where a network file system gave up its lock: the next writer gets it.
        (versions / "00000001" / "lock").unlink()
        with new_version(model, source) as second:
            assert second.version == 2
            second.write("layer-0", {"w": QUANTIZED})
            second.keep("n")
            if step == "write":
                with pytest.raises(StoreError, match="version 1 was taken from this writer"):
                    first.write("layer-0", {"w": np.zeros((2, 2), np.float32)})
            if step == "commit":
                with pytest.raises(StoreError, match="version 1 was taken from this writer"):
                    first.commit("the first", {})
            second.commit("the second", {})
    assert folders(model) == ["00000000", "00000002"]
    with Store.open(model, 2) as store:
        np.testing.assert_array_equal(store.read("w"), dequantize(QUANTIZED))
        assert store.read("n").tolist() == [0, 1, 2, 3, 4, 5]


def test_the_folder_of_a_successor_is_not_removed(model: Path) -> None:
    folder = model / ".partwise" / "versions" / "00000001"
    with Store.open(model) as source, new_version(model, source):
        (folder / writer_module.CLAIM_NAME).write_text("another")
    assert (folder / writer_module.CLAIM_NAME).read_text() == "another"


def test_a_number_is_not_given_again_when_its_folder_is_gone(model: Path) -> None:
    with Store.open(model) as source:
        for number in (1, 2):
            with new_version(model, source) as writer:
                assert writer.version == number
    assert folders(model) == ["00000000"]
    assert commit(model) == 3


def test_a_full_disk_leaves_the_versions_before(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(model)

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Store.open(model) as source, new_version(model, source) as writer:
        monkeypatch.setattr(writer_module.os, "fsync", refuse)
        with pytest.raises(StoreError, match="No space left"):
            writer.write("layer-0", {"w": QUANTIZED})
    monkeypatch.undo()
    assert folders(model) == ["00000000", "00000001"]


def test_a_version_is_made_from_a_version(model: Path) -> None:
    commit(model)
    with Store.open(model, 1) as source, new_version(model, source) as writer:
        writer.keep("w")
        writer.write("layer-0", {"n": np.ones(6, np.float32)})
        manifest = writer.commit("from 1", {})
    assert manifest.derivation
    assert manifest.derivation.parent == 1
    with Store.open(model, 2) as store:
        np.testing.assert_array_equal(store.read("w"), dequantize(QUANTIZED))
        assert store.read("n").tolist() == [1] * 6
        # Both of its folders hold bytes of it.
        assert {Path(s.file).parent.name for s in store.manifest.shards} == {
            "00000001",
            "00000002",
        }
