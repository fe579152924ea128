from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from partwise.errors import StoreError
from partwise.store import Store

NOBODY = 65534


@pytest.fixture
def foreign(write_model) -> Iterator[Path]:
    """A folder with a model that this process may read but not write."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        model = write_model(root / "model", {"w": np.arange(6, dtype=np.float32)})
        model.chmod(0o555)
        (root / "cache").mkdir()
        if is_root := os.geteuid() == 0:
            os.chown(root / "cache", NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield root
        finally:
            if is_root:
                os.seteuid(0)
            model.chmod(0o755)


def test_the_store_lies_beside_a_model_that_can_be_written(tmp_path: Path, write_model) -> None:
    model = write_model(tmp_path, {"w": np.arange(6, dtype=np.float32)})
    with Store.open(model) as store:
        assert store.location == model / ".partwise" / "versions" / "00000000"
        assert (store.location / "manifest.json").is_file()


def test_the_store_of_a_read_only_model_lies_in_the_cache(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(foreign / "cache"))
    with Store.open(foreign / "model") as store:
        assert store.location.is_relative_to(foreign / "cache" / "partwise" / "stores")
        assert store.read("w").tolist() == list(range(6))
    assert (store.location / "digests.json").is_file()
    assert [path.name for path in (foreign / "model").iterdir()] == ["model.safetensors"]


def test_a_store_that_fits_nowhere_says_what_to_set(
    foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(foreign / "model"))
    with pytest.raises(StoreError, match=r"no permission .* set XDG_CACHE_HOME"):
        Store.open(foreign / "model")


def test_a_store_folder_that_is_a_file_is_named(tmp_path: Path, write_model) -> None:
    model = write_model(tmp_path, {"w": np.arange(6, dtype=np.float32)})
    (model / ".partwise").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot make the store folder .*\.partwise"):
        Store.open(model)
