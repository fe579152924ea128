from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from partwise.capture.arguments import (
    Unwritable,
    list_references,
    read_argument,
    write_argument,
)
from partwise.errors import DamagedModel

SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from([torch.float32, torch.int64, torch.bool, torch.bfloat16]),
    st.sampled_from([torch.channels_last, torch.contiguous_format, torch.strided, Ellipsis]),
    st.builds(slice, st.none() | st.integers(0, 9), st.none() | st.integers(0, 9), st.none()),
)
VALUES = st.recursive(
    SIMPLE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def refuse(value: Any) -> Any:
    raise Unwritable(f"a {type(value).__name__}")


@given(VALUES)
def test_an_argument_is_the_same_after_its_way_through_json(value: Any) -> None:
    written = json.loads(json.dumps(write_argument(value, refuse), allow_nan=False))
    assert read_argument(written, {}, 1) == value


def test_nodes_states_and_sizes_are_looked_up() -> None:
    written = [{"node": "a"}, {"tuple": [{"state": "w"}, {"size": [2, 1]}]}, {"dict": {"node": 3}}]
    lookups = {"node": {"a": 10}.__getitem__, "state": {"w": 20}.__getitem__}
    assert read_argument(written, lookups, 5) == [10, (20, 11), {"node": 3}]
    assert list(list_references(written, "node")) == ["a"]
    assert list(list_references(written, "state")) == ["w"]


@pytest.mark.parametrize(
    "written",
    [
        {"node": "gone"}, {"code": "print(1)"}, {"dtype": "nn"}, {"memory_format": "load"},
        {"slice": [1]}, {"node": "a", "state": "w"}, {}, {"size": [1]}, {"float": "x"},
    ],
)  # fmt: skip
def test_what_is_no_argument_is_refused(written: Any) -> None:
    with pytest.raises(DamagedModel, match="no argument is"):
        read_argument([written], {"node": {"a": 1}.__getitem__}, 1)


@pytest.mark.parametrize("value", [object(), {1: 2}, torch.complex64])
def test_what_cannot_be_written_is_refused(value: Any) -> None:
    with pytest.raises(Unwritable):
        write_argument([value], refuse)
