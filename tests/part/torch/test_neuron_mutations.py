"""A stage of several members that computes wrongly is seen in its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from partwise.model import open_model
from partwise.part.owned import Owned
from partwise.part.torch import halves, runner, vocabulary, weights
from support.passes import compare, run_passes, run_whole
from support.planning import plan_with

Patch = pytest.MonkeyPatch
UNITS = "mlp_unit"
OTHER = {"part0": "part1", "part1": "part0"}


def swap_shares(patch: Patch) -> None:
    """Each member computes what the plan gives to the other."""
    original = runner._find_owned
    patch.setattr(
        runner,
        "_find_owned",
        lambda options, stage: original(replace(options, part=OTHER[options.part]), stage),
    )


def swap_the_columns_of_mlps(patch: Patch) -> None:
    """The last matrix of an MLP is cut to the other's units."""
    original = weights.read_owned

    def read(store: Any, parameter: Any, owned: Owned) -> Any:
        if parameter.name.endswith(("down_proj.weight", "mlp.c_proj.weight")):
            ((start, stop),) = owned.by_kind[UNITS]
            count = 2 * (stop - start)
            owned = Owned(by_kind={UNITS: ((count - stop, count - start),)})
        return original(store, parameter, owned)

    patch.setattr(weights, "read_owned", read)


def drop_biases(patch: Patch) -> None:
    patch.setattr(halves, "_with_bias", lambda total, bias: total)


def add_biases_by_each_member(patch: Patch) -> None:
    patch.setattr(halves, "_with_bias", lambda total, bias: total + 2 * bias)


def leave_out_sums(patch: Patch) -> None:
    for module in (halves, vocabulary):
        patch.setattr(module, "sum_members", lambda exchange, partial: partial)


def leave_out_the_sum_of_a_half(patch: Patch) -> None:
    """All members take the part of one."""
    original = halves.sum_members

    def take(exchange: Any, partial: torch.Tensor) -> torch.Tensor:
        return original(exchange, partial if exchange.index == 0 else torch.zeros_like(partial))

    patch.setattr(halves, "sum_members", take)


MUTATIONS = [
    swap_shares,
    swap_the_columns_of_mlps,
    drop_biases,
    add_biases_by_each_member,
    leave_out_sums,
    leave_out_the_sum_of_a_half,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_mutation_is_seen(
    family: str,
    mutation: Callable[[Patch], None],
    saved: Callable[[str], Path],
    monkeypatch: Patch,
) -> None:
    path = saved(family)
    expected = run_whole(path)
    plan = plan_with(open_model(path), "count", 2)
    mutation(monkeypatch)
    try:
        found, _ = run_passes(path, plan)
    except AssertionError:
        assert mutation is leave_out_sums  # the members hold different bits
        return
    assert compare(found, expected).relative > 1e-2
