"""The torch runner in bf16: against transformers in bf16, and the same bits however it is cut."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from oracle_cases import load_network
from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import Plan
from partwise.distributor.workload import Workload
from partwise.model import Model, open_model
from partwise.remote.frame import RowFlag
from support.decoders import MIXTURES, save_decoder
from support.passes import FAMILY_NAMES, PASSES, TEXT, Outputs, run_passes, run_transformers
from support.planning import plan_with
from support.stages import plan_stages

FAMILIES = (*FAMILY_NAMES, *MIXTURES)
NOISE = 1.5
"""How many times as far from fp32 as transformers' own bf16 the runner's may be: both round after
every operation, in another order."""
Find = Callable[[str], Path]
Run = Callable[[str, int], Outputs]


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory, saved: Find) -> Find:
    """The folder of the model of a family, mixtures too."""

    @cache
    def find(family: str) -> Path:
        if family in MIXTURES:
            return save_decoder(tmp_path_factory.mktemp(family), family)
        return saved(family)

    return find


@pytest.fixture(scope="module")
def run(find: Find) -> Run:
    """What a family says in bf16 in a number of parts, computed once."""

    @cache
    def run(family: str, num_parts: int) -> Outputs:
        path = find(family)
        return run_passes(path, cut(open_model(path), num_parts))[0]

    return run


def cut(model: Model, num_parts: int) -> Plan:
    """Layers in about equal runs."""
    bounds = np.linspace(0, len(model.layers), num_parts + 1).astype(int).tolist()
    return in_bf16(plan_stages(model, [(a, b, [[]]) for a, b in pairwise(bounds)]))


def in_bf16(plan: Plan) -> Plan:
    parts = tuple(msgspec.structs.replace(part, precision="bf16") for part in plan.parts)
    return msgspec.structs.replace(plan, parts=parts)


def list_logits(outputs: Outputs) -> np.ndarray:
    """Of the passes that give them, one after the other."""
    return np.concatenate([tensors[2] for tensors in outputs if len(tensors) == 3])


@cache
def say_transformers(path: Path) -> np.ndarray:
    """transformers' own logits in bf16, as `list_logits`."""
    with torch.inference_mode():
        logits = load_network(path).bfloat16()(torch.from_numpy(TEXT)).logits.float()
    ends = [
        (row.sequence, row.position + row.num_tokens - 1)
        for rows in PASSES
        if any(row.flags & RowFlag.LOGITS for row in rows)
        for row in rows
        if row.flags & RowFlag.PICK
    ]
    return np.stack([logits[end].numpy() for end in ends])


def find_error(found: np.ndarray, path: Path) -> float:
    """How far logits are from those of fp32, as a share of them: the median of rows, for where
    two experts nearly tie rounding chooses, and all of that row changes."""
    plain = list_logits(run_transformers(path))
    return float(np.median(np.linalg.norm(found - plain, axis=1) / np.linalg.norm(plain, axis=1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_as_near_to_fp32_as_transformers_own(family: str, run: Run, find: Find) -> None:
    found, theirs = list_logits(run(family, 1)), say_transformers(find(family))
    assert 0 < find_error(found, find(family)) < NOISE * find_error(theirs, find(family))
    assert found.dtype == np.float32
    # The head has rounded them too.
    assert (torch.from_numpy(found).bfloat16().float().numpy() == found).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_picks_are_those_of_fp32_up_to_near_ties(family: str, run: Run, find: Find) -> None:
    num_picks = 0
    for ours, plain in zip(run(family, 1), run_transformers(find(family)), strict=True):
        assert [t.shape for t in ours] == [t.shape for t in plain]
        assert ours[0].dtype == np.int64
        if len(plain) == 3:
            rows = np.arange(len(plain[0]))
            gaps = plain[2][rows, plain[0]] - plain[2][rows, ours[0]]
            assert (gaps <= 2 * np.abs(ours[2] - plain[2]).max(axis=1)).all()
            num_picks += len(rows)
    assert num_picks == 8


@pytest.mark.parametrize("num_parts", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_parts_says_the_same_bits(family: str, num_parts: int, run: Run) -> None:
    for ours, whole in zip(run(family, num_parts), run(family, 1), strict=True):
        assert [t.tobytes() for t in ours] == [t.tobytes() for t in whole]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_members_say_the_same_but_for_rounding(family: str, find: Find) -> None:
    path = find(family)
    plan = in_bf16(plan_with(open_model(path), "count", 2))
    # That all members say the same bits is checked as they run.
    found, stages = run_passes(path, plan)
    assert find_error(list_logits(found), path) < NOISE * find_error(say_transformers(path), path)
    (runners,) = stages.runners
    for part, runner in zip(plan.parts, runners, strict=True):
        footprint = part_footprint(plan, open_model(path), part.name, Workload(context_tokens=16))
        assert runner.weight_bytes == runner.host_bytes == footprint.weight_bytes


def test_weights_and_caches_take_two_bytes_an_element(find: Find) -> None:
    path = find("llama tied")
    model = open_model(path)
    _, stages = run_passes(path, cut(model, 1), PASSES[:1])
    ((runner,),) = stages.runners
    assert runner.weight_bytes == 2 * model.num_parameters
    tensors = [p for module in runner._modules for p in module.parameters()]
    assert {p.dtype for p in tensors} == {torch.bfloat16}
    keys, values = runner._kv._held[0].blocks[0]
    assert (keys.dtype, values.dtype) == (torch.bfloat16, torch.bfloat16)
