"""What a part owns of a parameter is read as it lies, in few reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.model import open_model
from partwise.part import owned as owned_module
from partwise.part.owned import Owned, read_owned
from partwise.store import Store
from support.plans import find_ranges


def count_reads(patch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors that are read from now on."""
    names: list[str] = []
    original = Store.read

    def read(self: Store, name: str, slices: tuple[slice, ...] | None = None) -> np.ndarray:
        names.append(name)
        return original(self, name, slices)

    patch.setattr(Store, "read", read)
    return names


@pytest.mark.parametrize("block_bytes", [1, 1 << 12, 1 << 24])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 32), num_owners=st.integers(1, 4))
def test_all_that_is_owned_is_read_and_nothing_else(
    tiny_gpt2: Path, block_bytes: int, seed: int, num_owners: int
) -> None:
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch, Store.open(tiny_gpt2) as store:
        patch.setattr(owned_module, "BLOCK_BYTES", block_bytes)
        for layer in open_model(tiny_gpt2).layers[:2]:
            owner_of = {kind.name: rng.integers(0, num_owners, kind.count)
                        for kind in layer.neuron_kinds}  # fmt: skip
            owned = Owned(by_kind={kind: find_ranges(o, 0) for kind, o in owner_of.items()})
            for parameter in layer.parameters:
                found = read_owned(store, parameter, owned)
                whole = store.read(parameter.stored_name)
                if not parameter.neurons:
                    assert np.array_equal(found, whole)
                    continue
                places = [
                    axis.offset + neuron * axis.width + np.arange(axis.width)
                    for axis in parameter.neurons
                    for neuron in np.flatnonzero(owner_of[axis.kind] == 0)
                ]
                index = np.concatenate([np.empty(0, np.int64), *places])
                expected = np.take(whole, index, parameter.neurons[0].axis)
                assert found.shape == expected.shape
                assert np.array_equal(found, expected)
                assert found.flags.c_contiguous
                assert not found.size or found.ctypes.data % 64 == 0


def test_neighbours_of_others_are_read_along(
    tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (table, _) = open_model(tiny_gpt2).layers[0].parameters
    rows = tuple((i, i + 1) for i in range(0, table.shape[0], 2))
    names = count_reads(monkeypatch)
    with Store.open(tiny_gpt2) as store:
        read_owned(store, table, Owned(by_kind={"vocabulary_row": rows}))
        assert len(names) == 1
        monkeypatch.setattr(owned_module, "BLOCK_BYTES", 1)
        read_owned(store, table, Owned(by_kind={"vocabulary_row": rows}))
        assert len(names) == 1 + len(rows)
