from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from partwise.capture.graph import Dim, Graph, Input, Node, TensorSpec
from partwise.capture.layout import Layout, Place
from partwise.capture.reshape import _follow, spread_reshaped
from partwise.capture.values import Values


def make_spec(sizes: list[int]) -> TensorSpec:
    shape = (Dim(1, 0), *(Dim(0, size) for size in sizes))
    return TensorSpec(shape=shape, dtype="float32", order=tuple(range(len(shape))))


def factor(rng: np.random.Generator, number: int) -> list[int]:
    """Sizes of which ``number`` is the product, some of them 1."""
    sizes = []
    while number > 1:
        divisors = [d for d in range(2, number + 1) if number % d == 0]
        sizes.append(int(rng.choice(divisors)))
        number //= sizes[-1]
    for _ in range(rng.integers(0, 2)):
        sizes.insert(rng.integers(0, len(sizes) + 1), 1)
    return sizes


@given(st.integers(0, 2**32 - 1))
def test_what_members_reshape_are_the_neurons_they_are_said_to_have(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = int(rng.choice([6, 8, 12, 16, 24, 36]))
    before, after = factor(rng, total), factor(rng, total)
    source, result = make_spec(before), make_spec(after)
    node = Node(
        name="y", kind="method", target="view", args=({"node": "x"},), leaves=(result,),
        structure={"leaf": 0},
    )  # fmt: skip
    entry = Input(name="x", argument="x", spec=source)
    graph = Graph(
        name="g", fixed_batch=None, inputs=(entry,), nodes=(node,), output={"node": "y"}, states=()
    )
    axis = int(rng.integers(1, len(source.shape)))
    count = source.shape[axis].constant
    owners = rng.integers(0, 2, count)
    if rng.random() < 0.5:
        owners = np.sort(owners)
    held = {f"part{i}": np.flatnonzero(owners == i) for i in range(2)}
    layout = Layout(axis=axis, count=count, held=held)
    place = Place(
        values=Values(graph), members=tuple(held), layouts={"x": layout}, owned=None, kind="",
        reads=lambda weight, axis, ids: None,
    )  # fmt: skip
    spread = spread_reshaped(node, "x", place)
    is_last_merged = axis == 1 and len(after) == 1
    assert spread is not None or not is_last_merged
    if spread is None:
        return
    batch = 3
    x = np.arange(batch * math.prod(before)).reshape(batch, *before)
    whole = x.reshape(batch, *after)
    for member, share in spread.shares.items():
        assert share.outputs is not None
        sizes = [size if isinstance(size, int) else batch for size in share.node.args[1]]
        own = x.take(held[member], axis).reshape(sizes)
        assert np.array_equal(own, whole.take(share.outputs, spread.axis))


def test_channels_are_flattened_to_runs_and_units_viewed_as_heads() -> None:
    for before, after, axis, held, expected in (
        ([4, 2, 2], [16], 1, [1, 3], (1, [4, 5, 6, 7, 12, 13, 14, 15])),
        ([5, 8], [5, 4, 2], 2, [2, 3, 6, 7], (2, [1, 3])),
        ([5, 8], [5, 4, 2], 2, [2, 3, 6], None),
        ([4, 3], [4, 1, 3], 1, [0, 2], (1, [0, 2])),
    ):
        layout = Layout(axis=axis, count=before[axis - 1], held={"a": np.array(held)})
        found = _follow(make_spec(before), layout, make_spec(after))
        assert (found and (found[0], found[1]["a"].tolist())) == expected
