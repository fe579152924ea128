from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from partwise.capture.layouts import COORDINATOR
from partwise.capture.schedule import count_pushed
from partwise.distributor import balance_layers
from partwise.distributor.connectivity import own_by_count
from partwise.distributor.hypergraph import count_sent
from partwise.distributor.plan import Plan
from partwise.distributor.strategies import STRATEGIES
from support.modules import LocalRun, call_whole, capture_net, capture_to, find_largest_error
from support.nets import Mlp, make_net, make_nets, make_sparse_net
from support.planning import plan_with
from support.plans import list_owners
from support.sparse import shuffled_blocks

NUM_CASES = 1000
NUM_DIRECTORIES = 25


@pytest.mark.parametrize("name", make_nets())
def test_layers_in_parts_give_the_bits_of_the_module(name: str) -> None:
    case = capture_net(name)
    net, make_batch, captured, model = case.net, case.make_batch, case.captured, case.model
    inputs = make_batch(5)
    expected = call_whole(net, inputs)
    for num_parts in {1, 2, min(4, len(model.layers))}:
        plan = balance_layers(model, [f"s{i}" for i in range(num_parts)])
        results, _ = LocalRun(captured, plan).call(*inputs)
        assert [torch.equal(a, b) for a, b in zip(results, expected, strict=True)] == [True] * len(
            expected
        )


@pytest.mark.parametrize("num_parts", [2, 3])
@pytest.mark.parametrize("name", make_nets())
def test_neurons_in_parts_give_the_values_of_the_module(name: str, num_parts: int) -> None:
    case = capture_net(name)
    net, make_batch, captured, model = case.net, case.make_batch, case.captured, case.model
    run = LocalRun(captured, plan_with(model, "count", num_parts))
    for batch in (1, 5):
        inputs = make_batch(batch)
        results, exchanges = run.call(*inputs)
        assert find_largest_error(results, call_whole(net, inputs)) < 1e-5
        assert exchanges.sent == count_pushed(run.schedule, batch)


def test_heads_stay_with_the_member_that_has_their_units() -> None:
    case = capture_net("vit")
    net, make_batch, captured, model = case.net, case.make_batch, case.captured, case.model
    even = LocalRun(captured, plan_with(model, "count", 2))
    assert even.schedule.layouts.of["scaled_dot_product_attention"].axis == 1
    torn = LocalRun(captured, plan_with(model, "percentage", 2, percentages=[30, 70]))
    assert torn.schedule.layouts.of["scaled_dot_product_attention"].axis is None
    inputs = make_batch(2)
    assert find_largest_error(torn.call(*inputs)[0], call_whole(net, inputs)) < 1e-5


@pytest.mark.parametrize("num_parts", [2, 3])
def test_heads_of_torchs_own_attention_are_shared(num_parts: int) -> None:
    case = capture_net("vit")
    layer = next(layer for layer in case.model.layers if layer.name == "attention2")
    assert [(kind.name, kind.count) for kind in layer.neuron_kinds] == [("head", 4)]
    run = LocalRun(case.captured, plan_with(case.model, "count", num_parts))
    held = run.schedule.layouts.of["attention2.attended"].held
    assert sorted(len(ids) for ids in held.values()) == {2: [2, 2], 3: [1, 1, 2]}[num_parts]
    inputs = case.make_batch(3)
    assert find_largest_error(run.call(*inputs)[0], call_whole(case.net, inputs)) < 1e-5
    own = sum(runner.weight_bytes for runner in run.runners)
    whole = LocalRun(case.captured, balance_layers(case.model, ["s0"])).runners[0].weight_bytes
    assert own < 1.4 * whole


def test_a_channel_becomes_the_inputs_it_is_flattened_to() -> None:
    case = capture_net("cnn")
    plan = plan_with(case.model, "percentage", 2, percentages=[25, 75])
    run = LocalRun(case.captured, plan)
    layout = run.schedule.layouts.of["view"]
    assert (layout.axis, layout.count) == (1, 80)
    assert [len(ids) for ids in layout.held.values()] == [20, 60]


def own_at_random(rng: random.Random, widths: list[int], num_parts: int) -> dict[str, Any]:
    """Each neuron of each layer at a random owner, as the strategy ``ids`` is told."""
    ids = {}
    for i, width in enumerate(widths[1:]):
        owners = [rng.randrange(num_parts) for _ in range(width)]
        by_server = {
            f"s{part}": [n for n, owner in enumerate(owners) if owner == part]
            for part in range(num_parts)
        }
        ids[f"layers.{i}"] = {"unit": by_server}
    return ids


def plan_random(rng: random.Random, model: Any, widths: list[int]) -> Plan:
    num_parts = rng.randint(2, 4)
    return plan_with(model, "ids", num_parts, ids=own_at_random(rng, widths, num_parts))


def test_any_neurons_at_any_owners_give_the_values_of_the_module(tmp_path: Path) -> None:
    rng = random.Random(0)
    for directory in range(NUM_DIRECTORIES):
        widths = [rng.randint(1, 24) for _ in range(rng.randint(2, 5))]
        net = Mlp(widths).eval()
        if rng.random() < 0.5:
            for layer in net.layers:
                layer.weight.data *= torch.rand(layer.weight.shape) < rng.choice([0.1, 0.3])
        captured, model = capture_to(tmp_path / str(directory), net, torch.randn(2, widths[0]))
        for _ in range(NUM_CASES // NUM_DIRECTORIES):
            run = LocalRun(captured, plan_random(rng, model, widths))
            x = torch.randn(rng.randint(1, 4), widths[0])
            (result,), exchanges = run.call(x)
            assert find_largest_error([result], call_whole(net, [x])) < 1e-5
            assert exchanges.sent == count_pushed(run.schedule, len(x))


@pytest.mark.parametrize("strategy", ["count", "connectivity"])
def test_on_sparse_blocks_the_bytes_are_those_of_the_predicted_cut(
    strategy: str, tmp_path: Path
) -> None:
    masks = shuffled_blocks(4, 3, 16, 0.02, seed=1)
    net = make_sparse_net(masks)
    captured, model = capture_to(tmp_path, net, torch.randn(2, 48))
    named = {f"layers.{i}.weight": mask for i, mask in enumerate(masks)}
    plan = plan_with(model, strategy, 3, **({"masks": named} if strategy != "count" else {}))
    run = LocalRun(captured, plan)
    num_sent = count_sent(masks, list_owners(plan, [48] * 4), 3)
    x = torch.randn(7, 48)
    (result,), exchanges = run.call(x)
    between = {pair: n for pair, n in exchanges.sent.items() if COORDINATOR not in pair}
    assert sum(between.values()) == 4 * 7 * num_sent
    assert find_largest_error([result], call_whole(net, [x])) < 1e-5
    if strategy == "connectivity":
        assert f"a pass sends {num_sent} activations a row" in plan.notes[0]
        assert num_sent < count_sent(masks, own_by_count(masks, 3), 3)


def test_a_stage_of_neurons_between_layers_gives_the_values_of_the_module() -> None:
    import msgspec

    from partwise.distributor.build import join
    from partwise.distributor.placement import place_parameters
    from partwise.distributor.plan import Member, NeuronShare, Stage

    case = capture_net("resnet")
    net, make_batch, captured, model = case.net, case.make_batch, case.captured, case.model
    num_layers = len(model.layers)
    counts = [(i, k.count) for i, layer in enumerate(model.layers) for k in layer.neuron_kinds]
    middle = [(i, count) for i, count in counts if 4 <= i < num_layers - 2]
    shares = [
        tuple(
            NeuronShare(kind="channel", ranges=(bounds[m],), layers=(i, i + 1))
            for i, count in middle
            for bounds in [((0, count // 3), (count // 3, count))]
        )
        for m in range(2)
    ]
    stages = (
        Stage(start=0, stop=4, members=(Member(part="part0"),)),
        Stage(
            start=4,
            stop=num_layers - 2,
            members=tuple(Member(part=f"part{m + 1}", neurons=shares[m]) for m in range(2)),
        ),
        Stage(start=num_layers - 2, stop=num_layers, members=(Member(part="part3"),)),
    )
    names = [f"s{i}" for i in range(4)]
    plan = balance_layers(model, names)
    plan = msgspec.structs.replace(
        plan, stages=stages, links=join(stages), placements=place_parameters(model, stages)
    )
    inputs = make_batch(3)
    results, _ = LocalRun(captured, plan).call(*inputs)
    assert find_largest_error(results, call_whole(net, inputs)) < 1e-5


def test_results_follow_the_weights_of_every_layer(tmp_path: Path) -> None:
    net, make_batch = make_net("cnn")
    inputs = make_batch(2)
    before = call_whole(net, inputs)
    for number, (name, parameter) in enumerate(net.named_parameters()):
        parameter.data += 0.1
        captured, model = capture_to(tmp_path / str(number), net, inputs)
        results, _ = LocalRun(captured, plan_with(model, "count", 2)).call(*inputs)
        assert find_largest_error(results, before) > 1e-4, name
        assert find_largest_error(results, call_whole(net, inputs)) < 1e-5
        parameter.data -= 0.1


STRATEGY_OPTIONS: dict[str, dict[str, Any]] = {
    "percentage": {"percentages": [20, 80]},
    "ids": {"ids": {"*": {"unit": {"s0": "0:7", "s1": "7:10"}}, "layers.0": {
        "unit": {"s0": "1,5:30", "s1": "0,2:5,30:48"}}, "layers.1": {
        "unit": {"s0": "20:32", "s1": "0:20"}}}},
    "layers": {"layers": {"s0": "0:1", "s1": "1:3"}},
    "type": {"types": {"unit": ["s1", "s0"]}},
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_plan_of_every_strategy_runs(strategy: str) -> None:
    case = capture_net("mlp")
    plan = plan_with(case.model, strategy, 2, **STRATEGY_OPTIONS.get(strategy, {}))
    inputs = case.make_batch(3)
    results, exchanges = (run := LocalRun(case.captured, plan)).call(*inputs)
    assert find_largest_error(results, call_whole(case.net, inputs)) < 1e-5
    assert exchanges.sent == count_pushed(run.schedule, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_module_in_another_precision_keeps_its_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    net, x = Mlp([12, 9, 5]).eval().to(dtype), torch.randn(4, 12, dtype=dtype)
    captured, model = capture_to(tmp_path, net, x)
    (expected,) = call_whole(net, [x])
    (result,), _ = LocalRun(captured, balance_layers(model, ["s0", "s1"])).call(x)
    assert result.dtype is dtype
    assert torch.equal(result, expected)
    (result,), exchanges = (run := LocalRun(captured, plan_with(model, "count", 2))).call(x)
    assert torch.allclose(result, expected, rtol=1e-2)
    assert exchanges.sent == count_pushed(run.schedule, 4)


class Bytes(torch.nn.Module):
    """Looks at the bytes of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        signs = (y.view(torch.int32) < 0).to(y.dtype)
        return self.last(y * signs.flip(1).mean(0, keepdim=True))


def test_neurons_are_put_together_before_they_are_mixed(tmp_path: Path) -> None:
    net, x = Bytes().eval(), torch.randn(5, 6)
    captured, model = capture_to(tmp_path, net, x)
    run = LocalRun(captured, plan_with(model, "percentage", 3, percentages=[20, 30, 50]))
    assert find_largest_error(run.call(x)[0], call_whole(net, [x])) < 1e-5
    assert run.schedule.layouts.of["flip"].axis is None


def make_hf_vit() -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        image_size=16, patch_size=4,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def test_a_vit_of_transformers_gives_its_bits_and_shares_its_heads(tmp_path: Path) -> None:
    net, x = make_hf_vit(), torch.randn(3, 3, 16, 16)
    captured, model = capture_to(tmp_path, net, x)
    (expected,) = call_whole(net, [x])
    (result,), _ = LocalRun(captured, balance_layers(model, ["s0", "s1"])).call(x)
    assert torch.equal(result, expected)
    run = LocalRun(captured, plan_with(model, "count", 2))
    assert find_largest_error(run.call(x)[0], [expected]) < 1e-5
    assert run.schedule.layouts.of["scaled_dot_product_attention_1"].axis == 1
