from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from partwise.capture.describe import list_sections, note_whole
from partwise.model import CutTensor
from support.modules import capture_to
from support.nets import make_net


def test_layers_begin_where_parameters_are_and_have_their_neurons(tmp_path: Path) -> None:
    net, make_batch = make_net("cnn")
    captured, model = capture_to(tmp_path, net, make_batch(2))
    assert [layer.name for layer in model.layers] == [
        "features.0", "features.1", "features.4", "hidden", "head",
    ]  # fmt: skip
    kinds = [[(kind.name, kind.count) for kind in layer.neuron_kinds] for layer in model.layers]
    assert kinds == [[("channel", 12)], [], [("channel", 20)], [("unit", 32)], [("unit", 10)]]
    assert [node.name for node in list_sections(captured.graph)[1].nodes] == [
        "features_1", "features_2", "features_3",
    ]  # fmt: skip
    assert model.num_parameters == sum(p.numel() for p in net.parameters())
    assert note_whole(captured.graph) == [
        "layers without neurons to share, whose parameters every member holds: features.1"
    ]


def test_multiplications_are_counted_once_for_each_place(tmp_path: Path) -> None:
    net, make_batch = make_net("cnn")
    _, model = capture_to(tmp_path, net, make_batch(2))
    assert [layer.macs_per_token for layer in model.layers] == [
        12 * 9 * 64, 0, 20 * 12 * 9 * 16, 80 * 32, 320,
    ]  # fmt: skip


def test_a_cut_between_branches_carries_several_tensors(tmp_path: Path) -> None:
    net, make_batch = make_net("resnet")
    _, model = capture_to(tmp_path, net, make_batch(2))
    names = [layer.name for layer in model.layers]
    cut = model.cut_at(names.index("left.conv1"))
    assert {(t.shape, t.dtype, t.width) for t in cut} == {
        ((None, 8, 8, 8), "float32", 512), ((None, 12, 4, 4), "float32", 192),
    }  # fmt: skip
    assert len(cut) == 2
    assert model.cut_at(0) == (
        CutTensor(name="x", width=192, shape=(None, 3, 8, 8), dtype="float32"),
    )
    assert [tensor.width for tensor in model.cut_at(len(names))] == [10]
    assert model.cut_tensors[0].width == max(
        sum(t.width for t in model.cut_at(i)) for i in range(len(names) + 1)
    )


def test_tied_weights_are_held_once_and_have_no_neurons(tmp_path: Path) -> None:
    net, make_batch = make_net("gpt2")
    _, model = capture_to(tmp_path, net, make_batch(2))
    tied = [p for p in model.parameters if p.alias_of is not None]
    assert [p.alias_of for p in tied] == ["transformer.wte.weight"]
    assert not any(p.neurons for p in model.parameters if p.name == "transformer.wte.weight")
    assert model.num_parameters == sum(p.numel() for p in net.parameters())
    kinds = {kind.name for layer in model.layers for kind in layer.neuron_kinds}
    assert kinds == {"unit", "column"}


def test_what_cannot_be_split_is_named(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 6, 1, padding_mode="circular"))
    captured, model = capture_to(tmp_path, net.eval(), torch.zeros(2, 4, 5, 5))
    assert not any(layer.neuron_kinds for layer in model.layers)
    assert note_whole(captured.graph)[0].endswith("every member holds: 0, 1")
