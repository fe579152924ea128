"""What is refused before any server is started or reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from partwise.distributor import Plan, balance_layers, check_whole, place_parameters
from partwise.distributor.plan import Link, Member, NeuronShare, Part, Stage
from partwise.engine.prepared import prepare
from partwise.errors import PlanError, PromptError, UsageError
from partwise.model import Model, open_model


def split_plan(model: Model) -> Plan:
    """A verified plan of two stages, of which two parts share the second one's neurons."""
    cut, stop = 2, len(model.layers)
    kinds = {kind.name: kind.count for layer in model.layers for kind in layer.neuron_kinds}
    shares = [
        tuple(
            NeuronShare(kind=kind, ranges=((0, count // 2),) if first else ((count // 2, count),))
            for kind, count in kinds.items()
        )
        for first in (True, False)
    ]
    stages = (
        Stage(start=0, stop=cut, members=(Member(part="a"),)),
        Stage(
            start=cut,
            stop=stop,
            members=tuple(
                Member(part=part, neurons=share)
                for part, share in zip(("b", "c"), shares, strict=True)
            ),
        ),
    )
    return msgspec.structs.replace(
        balance_layers(model, ["local-0"]),
        stages=stages,
        parts=tuple(Part(name=part, server=f"local-{i}") for i, part in enumerate("abc")),
        links=(Link(source="a", target="b"), Link(source="a", target="c")),
        placements=place_parameters(model, stages),
    )


def test_a_plan_that_splits_layers_by_neurons_is_refused(tiny_llama: Path) -> None:
    plan = split_plan(open_model(tiny_llama))
    says = "layers 2:9 are split by neurons among 2 parts: this partwise runs whole layers; give"
    with pytest.raises(PlanError, match=says):
        prepare(tiny_llama, parts=None, servers=(), plan=plan)


def test_one_member_with_neurons_is_refused(tiny_llama: Path) -> None:
    plan = balance_layers(open_model(tiny_llama), ["a"])
    check_whole(plan)
    share = NeuronShare(kind="mlp_unit", ranges=((0, 160),))
    (stage,) = plan.stages
    member = msgspec.structs.replace(stage.members[0], neurons=(share,))
    plan = msgspec.structs.replace(
        plan, stages=(msgspec.structs.replace(stage, members=(member,)),)
    )
    with pytest.raises(PlanError, match="layers 0:9 are split by neurons among 1 part:"):
        check_whole(plan)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": "int8"}, "part1 is at int8: the torch runner computes whole layers in fp32"),
        ({"precision": "bf16"}, "part1 is at bf16: the torch"),
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
