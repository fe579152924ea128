from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from partwise.errors import DamagedModel, StoreError
from partwise.store import Store, reader

BLOCK = 64
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
SHAPES = [(), (1,), (50,), (7, 9), (3, 100), (40, 2), (4, 5, 6), (2, 3, 4, 5), (3, 0, 4)]


def source_arrays() -> dict[str, np.ndarray]:
    """Arrays of every dtype and shape; BF16 as bits."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for dtype, numpy_dtype in DTYPES.items():
        for shape in SHAPES:
            values = np.asarray(random.standard_normal(shape), np.float32)
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            array = bits if dtype == "BF16" else values.astype(numpy_dtype)
            arrays[f"{dtype}{shape}"] = array
    return arrays


ARRAYS = source_arrays()


def as_fp32(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint16:
        return array.astype(np.float32)
    wide = np.zeros((*array.shape, 2), np.uint16)
    wide[..., 1] = array
    return wide.view(np.float32)[..., 0]


@pytest.fixture(scope="module")
def store(tmp_path_factory, write_model) -> Store:
    odd = {"odd": np.zeros(3, np.float16)}  # so that tensors lie at no round offset
    return Store.open(write_model(tmp_path_factory.mktemp("m"), odd | ARRAYS), block_bytes=BLOCK)


@st.composite
def names_and_slices(draw: st.DrawFn) -> tuple[str, tuple[slice, ...]]:
    name = draw(st.sampled_from(sorted(ARRAYS)))
    shape = ARRAYS[name].shape
    slices = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        start = draw(st.integers(0, size))
        slices.append(slice(start, draw(st.integers(start, size))))
    return name, tuple(slices)


@settings(max_examples=400, deadline=None)
@given(case=names_and_slices())
def test_any_slice_equals_the_slice_of_the_source(
    store: Store, case: tuple[str, tuple[slice, ...]]
) -> None:
    name, slices = case
    found = store.read(name, slices)
    expected = as_fp32(ARRAYS[name])[(*slices, ...)]
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.size == 0 or found.ctypes.data % 64 == 0


@settings(max_examples=300, deadline=None)
@given(case=names_and_slices())
def test_a_read_touches_just_the_blocks_that_hold_its_elements(
    store: Store, case: tuple[str, tuple[slice, ...]]
) -> None:
    name, slices = case
    array = ARRAYS[name]
    wanted = np.arange(array.size).reshape(array.shape)[(*slices, ...)]
    blocks = np.unique(wanted * array.itemsize // BLOCK)
    start = store.manifest.tensors[name].offset
    expected = [(start + b * BLOCK, min(BLOCK, array.nbytes - b * BLOCK)) for b in blocks]
    with mock.patch.object(reader, "copy_block", wraps=reader.copy_block) as copy:
        store.read(name, slices)
    assert [(call.args[2], len(call.args[3])) for call in copy.mock_calls] == expected


def test_special_values_survive(tmp_path: Path, write_model) -> None:
    special = [np.inf, -np.inf, np.nan, -0.0, 1e-40]
    bits = (np.array(special, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    arrays = {"b": bits, "d": np.array(special), "h": np.array(special, np.float16)}
    with Store.open(write_model(tmp_path, arrays)) as opened:
        for name, array in arrays.items():
            np.testing.assert_array_equal(opened.read(name), as_fp32(array))
            assert np.signbit(opened.read(name)[3])


def test_a_value_beyond_fp32_is_an_error(tmp_path: Path, write_model) -> None:
    store = Store.open(write_model(tmp_path, {"d": np.array([1.0, 1e300])}))
    with pytest.raises(
        StoreError, match=r"tensor 'd', stored as F64, holds a value beyond the largest fp32"
    ):
        store.read("d")


def test_the_stored_bytes_are_counted_as_stored(store: Store) -> None:
    assert store.num_bytes("BF16(7, 9)") == 126
    assert store.num_bytes("F64(7, 9)") == 504


def test_an_unknown_tensor_names_the_closest(store: Store) -> None:
    for call in (store.read, store.num_bytes):
        with pytest.raises(StoreError, match=r"no tensor 'BF16\(7,9\)'.*closest is 'BF16\(7, 9\)'"):
            call("BF16(7,9)")


def test_a_slice_out_of_range_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"slice 0:10 on axis 1 .* 9 elements"):
        store.read("F32(7, 9)", (slice(None), slice(0, 10)))


def test_integers_are_not_read_as_weights(tmp_path: Path, write_model) -> None:
    store = Store.open(write_model(tmp_path, {"ids": np.arange(4)}))
    with pytest.raises(StoreError, match="'ids' is stored as I64"):
        store.read("ids")


def test_a_shard_that_vanishes_or_shrinks_is_named(tmp_path: Path, write_model) -> None:
    store = Store.open(write_model(tmp_path, {"w": np.zeros(5000, np.float32)}))
    path = tmp_path / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(DamagedModel, match=rf"truncated: it has {size - 1} bytes"):
        store.read("w")
    path.unlink()
    with pytest.raises(DamagedModel, match=r"model\.safetensors is missing"):
        store.read("w")


def test_a_shard_that_may_not_be_read_is_named(write_model) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        store = Store.open(write_model(root, {"w": np.zeros(5, np.float32)}))
        (root / "model.safetensors").chmod(0)
        if is_root := os.geteuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match=r"cannot open shard .*: Permission denied"):
                store.read("w")
        finally:
            if is_root:
                os.seteuid(0)


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from partwise.store import Store

def kib(field):
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0])

store = Store.open(Path(sys.argv[1]))
store.read("small")
before, peak_before = kib("VmRSS"), kib("VmHWM")
weights = store.read(sys.argv[2])
print(kib("VmRSS") - before, kib("VmHWM") - peak_before)
"""


@pytest.mark.parametrize("name", ["F32", "BF16"])
def test_reading_64_mib_keeps_64_mib_and_peaks_two_blocks_higher(
    tmp_path: Path, write_model, name: str
) -> None:
    dtype = {"F32": np.float32, "BF16": np.uint16}[name]
    arrays = {"small": np.ones(8, np.float32), name: np.ones((4096, 4096), dtype)}
    write_model(tmp_path, arrays)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), name]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    kept_mib, peak_mib = (int(word) / 1024 for word in output.split())
    assert 62 < kept_mib < 68
    assert peak_mib < 64 + 2 * 16 + 4


def test_bytes_are_read_as_bytes_and_numbers_are_not(tmp_path: Path) -> None:
    raw = np.arange(11, dtype=np.uint8)
    save_file({"raw": raw, "numbers": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with Store.open(tmp_path) as store:
        assert np.array_equal(store.read_bytes("raw"), raw)
        assert store.digests("raw") != [None]
        with pytest.raises(StoreError, match="only U8 are read as bytes"):
            store.read_bytes("numbers")
        with pytest.raises(StoreError, match="stored as U8: only F32.*are read as fp32"):
            store.read("raw")
