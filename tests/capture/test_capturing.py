from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from partwise.capture.capturing import capture
from partwise.capture.graph import decode_graph, encode_graph
from partwise.capture.schedule import compile_schedule
from partwise.distributor import balance_layers
from partwise.errors import DamagedModel, ModelError, PlanError, UsageError
from support.modules import (
    LocalRun,
    ModuleParts,
    call_whole,
    capture_net,
    capture_to,
    find_largest_error,
)
from support.nets import Mlp, make_net, make_nets
from support.planning import plan_with


@pytest.mark.parametrize("name", make_nets())
def test_a_graph_is_the_same_after_its_way_through_json(name: str) -> None:
    graph = capture_net(name).captured.graph
    assert graph.fixed_batch is None
    assert decode_graph(encode_graph(graph)) == graph


def run_whole(path: Path, net: nn.Module, inputs: Any) -> list[torch.Tensor]:
    """What one part of the captured module gives."""
    captured, model = capture_to(path, net, inputs)
    return LocalRun(captured, balance_layers(model, ["s0"])).call(*inputs)[0]


class Changes(nn.Module):
    """Values that are changed in place, and read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        z = self.relu(y)
        y += 1
        y.mul_(z)
        return y + z


class ChangesView(Changes):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        first = y[:, :3]
        first.add_(1)
        return y


def test_what_is_changed_in_place_is_written_as_a_new_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(Changes()).eval(), torch.randn(3, 6)
    expected = call_whole(net, [x.clone()])
    assert torch.equal(run_whole(tmp_path, net, (x,))[0], expected[0])
    graph, _ = capture(net, x)
    assert graph.nodes[0].target == "Linear"  # traced with its layers, not exported


def test_a_change_that_another_view_sees_is_refused_with_its_line() -> None:
    with pytest.raises(ModelError, match=r"test_capturing.py:\d+: first.add_\(1\).*in place"):
        capture(ChangesView().eval(), torch.randn(3, 6))


class Chooses(nn.Module):
    """Looks at the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if float(y.sum()) > 0:
            return y
        return -y


class Sorts(Chooses):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(self.linear(x))[0]


class Counts(Chooses):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


class Remembers(Chooses):
    """Is traced, but not for what it is."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


def test_a_module_that_remembers_its_calls_is_not_taken_for_another() -> None:
    with pytest.raises(ModelError, match="give other values than the module when it is called"):
        capture(Remembers().eval(), torch.randn(3, 6))


@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [
        (Chooses, r"if float\(y.sum\(\)\) > 0:", "torch.fx"),
        (
            Sorts,
            r"return torch.sort\(self.linear\(x\)\)\[0\]",
            "sort.* is not among the operations",
        ),
        (Counts, r"self.calls \+= 1", "in place"),
    ],
)
def test_a_module_that_cannot_be_captured_is_told_the_line_the_reason_and_what_to_do(
    make: type[nn.Module], code: str, reason: str
) -> None:
    with pytest.raises(ModelError) as caught:
        capture(make().eval(), torch.randn(3, 6))
    text = str(caught.value)
    assert text.startswith(f"{make.__name__} cannot be captured: by torch.fx, ")
    assert caught.match(rf"test_capturing.py:\d+: {code}")
    assert caught.match(reason)
    assert text.endswith("or put it outside the module")


def test_a_module_in_training_mode_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Mlp is in training mode.*eval\(\)"):
        capture(Mlp([4, 4]), torch.randn(2, 4))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ((), "the inputs do not fit Mlp.forward"),
        ((torch.zeros(2, 4), 3), "too many positional arguments"),
        ({"y": torch.zeros(2, 4)}, "missing a required argument"),
        ((3,), "hold no tensor"),
        (None, "example_inputs are None"),
        (([torch.zeros(2, 4)],), "gets tensors in 'x', which is no tensor itself"),
        (torch.zeros(2, 5), "cannot be captured"),
    ],
)
def test_examples_that_do_not_fit_are_refused(examples: Any, message: str) -> None:
    with pytest.raises((UsageError, ModelError), match=message):
        capture(Mlp([4, 4]).eval(), examples)


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(ModelError, match="has no parameters that it computes with"):
        capture(nn.Sequential(nn.ReLU()).eval(), torch.zeros(2, 4))


class Wide(nn.Module):
    """Optional arguments, several results, tied weights, buffers that are no fp32 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("exact", torch.tensor([1e-30, 1.0, 1 / 3], dtype=torch.float64))

    def forward(
        self, ids: torch.Tensor, scale: torch.Tensor | None = None, half: bool = False
    ) -> dict[str, Any]:
        x = self.table(ids)[:, self.order]
        if scale is not None:
            x = x * scale
        x = torch.where(self.mask[:, None], x, float("-inf")).clamp(min=-5.0)
        hidden = x * self.exact[:, None].to(x.dtype)
        return {"logits": self.head(hidden), "parts": (hidden, x.shape[0], [x.mean(1)])}


@pytest.mark.parametrize("has_scale", [False, True])
def test_results_of_any_structure_come_back_as_they_are(has_scale: bool, tmp_path: Path) -> None:
    net = Wide().eval()
    inputs = (torch.randint(0, 20, (4, 3)), torch.rand(4, 1, 1))[: 1 + has_scale]
    captured, model = capture_to(tmp_path, net, inputs)
    assert [p.alias_of for p in model.parameters] == [None, "table.weight"]
    with ModuleParts(captured, balance_layers(model, ["s0", "s1"]), net) as parts:
        found = parts.net(*inputs)
    with torch.no_grad():
        expected = net(*inputs)
    assert found.keys() == expected.keys()
    assert torch.equal(found["logits"], expected["logits"])
    hidden, size, (mean,) = found["parts"]
    assert size == 4
    assert torch.equal(hidden, expected["parts"][0])
    assert torch.equal(mean, expected["parts"][2][0])


def test_an_argument_that_is_no_tensor_stays_what_it_was_captured_with(tmp_path: Path) -> None:
    net, ids = Wide().eval(), torch.randint(0, 20, (4, 3))
    captured, model = capture_to(tmp_path, net, ids)
    with ModuleParts(captured, balance_layers(model, ["s0"]), net) as parts:
        parts.net(ids, half=False)
        with pytest.raises(UsageError, match="captured with half = False, it is called with True"):
            parts.net(ids, half=True)
        with pytest.raises(UsageError, match="captured with the tensors ids, it is called with"):
            parts.net(ids, torch.rand(4, 1, 1))


class Many(nn.Module):
    """More values cross its middle than a frame has room for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 70), nn.Linear(70, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = [torch.tanh(column) for column in self.first(x).split(1, 1)]
        return self.last(torch.cat(columns[::-1], 1)) + sum(columns)


def test_a_cut_of_more_tensors_than_a_frame_has_room_for_is_refused(tmp_path: Path) -> None:
    captured, model = capture_to(tmp_path, Many().eval(), torch.randn(2, 2))
    with pytest.raises(
        PlanError, match="would send 7. tensors to part1 at once, a frame carries 64"
    ):
        compile_schedule(captured.graph, balance_layers(model, ["s0", "s1"]))


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).view(3, 2, 2)


def test_a_module_for_one_batch_size_is_captured_for_it(tmp_path: Path) -> None:
    net, x = Fixed().eval(), torch.randn(3, 6)
    captured, model = capture_to(tmp_path, net, x)
    assert captured.graph.fixed_batch == 3
    run = LocalRun(captured, plan_with(model, "count", 2))
    assert find_largest_error(run.call(x)[0], call_whole(net, [x])) < 1e-5
    with (
        ModuleParts(captured, balance_layers(model, ["s0"]), net) as parts,
        pytest.raises(UsageError, match=r"captured for float32 \(3, 6\)"),
    ):
        parts.net(torch.randn(2, 6))


def test_sizes_follow_the_batch(tmp_path: Path) -> None:
    net, make_batch = make_net("vit")
    captured, _ = capture_to(tmp_path, net, make_batch(3))
    shapes = {n.name: n.spec.sizes(7) for n in captured.graph.nodes if n.spec is not None}
    assert shapes["expand"] == (7, 1, 32)
    assert shapes["scaled_dot_product_attention"] == (7, 4, 5, 8)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"operator.add"', '"os.system"', "asks for the function 'os.system'"),
        ('"torch.cat"', '"torch.load"', "asks for the function 'torch.load'"),
        ('"MaxPool2d"', '"Module"', "asks for the module 'Module'"),
        ('"format": 1', '"format": 2', "this partwise reads format 1"),
        ('"stem.0.weight"', '"stem.9.weight"', "reads the state 'stem.9.weight'"),
    ],
)
def test_a_file_that_asks_for_what_is_in_no_table_is_refused(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    from partwise.capture.files import open_captured

    net, make_batch = make_net("resnet")
    capture_to(tmp_path, net, make_batch(2))
    path = tmp_path / "graph.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DamagedModel, match=message):
        open_captured(tmp_path)
