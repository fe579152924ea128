"""What is refused before any server is started or reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from partwise.distributor import Plan, balance_layers, check_whole
from partwise.distributor.plan import NeuronShare
from partwise.engine.prepared import prepare
from partwise.errors import PlanError, PromptError, UsageError
from partwise.model import open_model
from support.plans import Computed
from support.sharing import share_layers


def test_a_plan_whose_stage_is_shared_runs(tiny_llama: Path) -> None:
    plan = share_layers(open_model(tiny_llama), [(0, 2, [1]), (2, 9, [1, 1])], server="local-")
    assert prepare(tiny_llama, parts=None, servers=(), plan=plan).plan == plan


def test_one_member_with_neurons_is_refused(tiny_llama: Path) -> None:
    plan = balance_layers(open_model(tiny_llama), ["a"])
    check_whole(plan)
    share = NeuronShare(kind="mlp_unit", ranges=((0, 160),))
    with pytest.raises(PlanError, match="layers 0:9 are split by neurons among 1 part:"):
        check_whole(with_shares(plan, share))


def test_neurons_that_the_runner_does_not_share_are_refused(tiny_llama: Path) -> None:
    model = open_model(tiny_llama)
    experts = NeuronShare(kind="expert", ranges=((0, 1),))
    for runner, kind, is_refused in (
        ("torch", "expert", False),
        ("onnx", "expert", True),
        ("torch", "channel", True),
        ("onnx", "vocabulary_row", False),
    ):
        plan = share_layers(model, [(0, 9, [1, 1])], Computed(runner=runner))
        plan = with_shares(plan, msgspec.structs.replace(experts, kind=kind))
        if not is_refused:
            check_whole(plan)
            continue
        says = f"part0 shares the neurons '{kind}' of layers 0:9: the {runner} runner computes sh"
        with pytest.raises(PlanError, match=says):
            check_whole(plan)


def test_members_that_share_nothing_are_refused(tiny_llama: Path) -> None:
    plan = with_shares(share_layers(open_model(tiny_llama), [(0, 9, [1, 1])]))
    with pytest.raises(PlanError, match="layers 0:9 have 2 members and nothing is split"):
        check_whole(plan)


def with_shares(plan: Plan, *shares: NeuronShare) -> Plan:
    """Each member of its only stage with these neurons instead of its own."""
    (stage,) = plan.stages
    members = tuple(msgspec.structs.replace(member, neurons=shares) for member in stage.members)
    stages = (msgspec.structs.replace(stage, members=members),)
    return msgspec.structs.replace(plan, stages=stages)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": "int8"}, "part1 is at int8: the torch runner computes whole layers in fp32"),
        ({"precision": "fp16"}, "part1 is at fp16: the torch"),
        ({"mlp_sparsity": 0.5}, "part1 is at fp32 without 50 % of its MLP units: the torch"),
    ],
)
def test_a_part_that_is_reduced_is_refused(
    tiny_llama: Path, changes: dict[str, Any], says: str
) -> None:
    plan = balance_layers(open_model(tiny_llama), ["local-0", "local-1"])
    part = msgspec.structs.replace(plan.parts[1], **changes)
    plan = msgspec.structs.replace(plan, parts=(plan.parts[0], part))
    with pytest.raises(PlanError, match=says):
        prepare(tiny_llama, parts=None, servers=(), plan=plan)


@pytest.mark.parametrize("near", ["127.0.0.1:7070", "localhost:7070", "[::1]:7070"])
def test_a_mix_of_this_machines_own_and_other_addresses_is_refused(
    tiny_llama: Path, near: str
) -> None:
    with pytest.raises(UsageError, match=r"is an address of this machine alone and 10.0.0.5:7"):
        prepare(tiny_llama, parts=None, servers=["10.0.0.5:7070", near], plan=None)
    prepare(tiny_llama, parts=None, servers=["10.0.0.5:7070", "lab-2:7070"], plan=None)
    prepare(tiny_llama, parts=None, servers=[near, "127.0.0.2:7070"], plan=None)


def test_a_server_written_in_two_ways_is_one(tiny_llama: Path) -> None:
    servers = ["10.0.0.5:7070", " 10.0.0.5:07070"]
    with pytest.raises(UsageError, match="given twice"):
        prepare(tiny_llama, parts=None, servers=servers, plan=None)
    plan = balance_layers(open_model(tiny_llama), servers[:1])
    prepared = prepare(tiny_llama, parts=None, servers=servers[1:], plan=plan)
    assert list(prepared.addresses) == servers[:1]


def test_a_request_is_cut_to_the_context_and_no_further(tiny_llama: Path) -> None:
    prepared = prepare(tiny_llama, parts=None, servers=(), plan=None)
    room = prepared.model.context_tokens - 500
    for asked, given in ((room - 1, room - 1), (room, room), (room + 1, room)):
        assert prepared.request("x" * 500, max_tokens=asked, chat=False).max_tokens == given
    with pytest.raises(PromptError, match="the prompt has 512 tokens"):
        prepared.request("x" * 512, max_tokens=1, chat=False)
