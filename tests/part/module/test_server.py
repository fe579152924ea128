from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from partwise.capture.parcels import parcel_frame
from partwise.distributor import balance_layers
from partwise.distributor.hypergraph import count_sent
from partwise.errors import (
    DeadlineExceeded,
    DeploymentClosed,
    DigestMismatch,
    PartFailed,
    PartwiseError,
    PlanError,
    UsageError,
)
from partwise.module_net import ModuleNet
from partwise.part.module import server as module_server
from support.modules import (
    ModuleParts,
    call_whole,
    capture_net,
    capture_to,
    find_largest_error,
    list_tensors,
)
from support.nets import Mlp, make_net, make_nets, make_sparse_net
from support.planning import plan_with
from support.plans import list_owners
from support.sparse import shuffled_blocks


@pytest.mark.parametrize("name", make_nets())
def test_servers_joined_in_memory_give_the_bits_of_the_module(name: str) -> None:
    case = capture_net(name)
    net, make_batch, captured, model = case.net, case.make_batch, case.captured, case.model
    plan = balance_layers(model, ["s0", "s1", "s2"])
    with ModuleParts(captured, plan, net) as parts:
        for batch in (2, 5):
            inputs = make_batch(batch)
            results = list_tensors(parts.net(*inputs))
            expected = call_whole(net, inputs)
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_frames_that_are_cut_at_random_change_nothing(seed: int) -> None:
    case = capture_net("resnet")
    net, make_batch, captured, model = case.net, case.make_batch, case.captured, case.model
    plan = plan_with(model, "count", 3)
    inputs = make_batch(4)
    with ModuleParts(captured, plan, net, seed=seed) as parts:
        for _ in range(3):
            results = list_tensors(parts.net(*inputs))
            assert find_largest_error(results, call_whole(net, inputs)) < 1e-5


def test_what_servers_push_is_what_the_plan_predicts() -> None:
    case = capture_net("cnn")
    net, make_batch, captured, model = case.net, case.make_batch, case.captured, case.model
    with ModuleParts(captured, plan_with(model, "count", 3), net) as parts:
        for batch in (1, 4):
            parts.net(*make_batch(batch))
        predicted = {
            pair: parts.net.predict_pushed(1)[pair] + num_bytes
            for pair, num_bytes in parts.net.predict_pushed(4).items()
        }
        assert parts.net.count_pushed() == predicted


@pytest.mark.parametrize("strategy", ["count", "connectivity"])
def test_on_sparse_blocks_servers_push_the_bytes_of_the_predicted_cut(
    strategy: str, tmp_path: Path
) -> None:
    masks = shuffled_blocks(4, 3, 16, 0.02, seed=1)
    net = make_sparse_net(masks)
    captured, model = capture_to(tmp_path, net, torch.randn(2, 48))
    named = {f"layers.{i}.weight": mask for i, mask in enumerate(masks)}
    plan = plan_with(model, strategy, 3, **({"masks": named} if strategy != "count" else {}))
    num_sent = count_sent(masks, list_owners(plan, [48] * 4), 3)
    x = torch.randn(7, 48)
    with ModuleParts(captured, plan, net) as parts:
        assert find_largest_error([parts.net(x)], call_whole(net, [x])) < 1e-5
        assert sum(parts.net.count_pushed().values()) == 4 * len(x) * num_sent


def test_a_part_that_answers_late_is_named_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Mlp([8, 8, 8]).eval()
    captured, model = capture_to(tmp_path, net, torch.randn(2, 8))
    run = module_server.ModuleServer._compute

    def compute(self: module_server.ModuleServer) -> None:
        assert self._assigned is not None
        if self._assigned.part == "part0" and self._assigned.finished_step == 1:
            self._assigned.finished_step += 1  # it skips the second call
            return
        run(self)

    monkeypatch.setattr(module_server.ModuleServer, "_compute", compute)
    plan = balance_layers(model, ["s0", "s1"])
    with ModuleParts(captured, plan, net, step_s=0.4) as parts:
        parts.net(torch.randn(2, 8))
        with pytest.raises(
            DeadlineExceeded, match=r"part1 .*send its results of step 2.*version 1"
        ):
            parts.net(torch.randn(2, 8))
        with pytest.raises(DeploymentClosed, match="the deployment is over"):
            parts.net(torch.randn(2, 8))


def test_a_member_that_waits_in_vain_names_who_owes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Mlp([8, 8, 8]).eval()
    captured, model = capture_to(tmp_path, net, torch.randn(2, 8))
    push = module_server.ModuleServer.push

    def lose(self, assigned, frame, target) -> None:  # type: ignore[no-untyped-def]
        if target != "part1":
            push(self, assigned, frame, target)

    monkeypatch.setattr(module_server.ModuleServer, "push", lose)
    plan = plan_with(model, "count", 2)
    with (
        ModuleParts(captured, plan, net, peer_s=0.3) as parts,
        pytest.raises(
            DeadlineExceeded, match=r"part0 did not send to part1 .*step 1, plan_version"
        ),
    ):
        parts.net(torch.randn(2, 8))


def call_often(net: ModuleNet) -> None:
    for _ in range(3):
        net(torch.randn(2, 8))


def test_a_server_that_goes_away_ends_the_call_and_is_named(tmp_path: Path) -> None:
    net = Mlp([8, 8, 8, 8]).eval()
    captured, model = capture_to(tmp_path, net, torch.randn(2, 8))
    plan = balance_layers(model, ["s0", "s1", "s2"])
    with ModuleParts(captured, plan, net) as parts:
        parts.net(torch.randn(2, 8))
        parts.stop_server("s1")
        with pytest.raises(PartwiseError, match=r"part1"):
            call_often(parts.net)


def test_an_operation_that_fails_is_told_with_its_part(tmp_path: Path) -> None:
    net, _ = make_net("lstm")
    captured, model = capture_to(tmp_path, net, torch.zeros(2, 7, dtype=torch.int64))
    with ModuleParts(captured, balance_layers(model, ["s0", "s1"]), net) as parts:
        ids = torch.full((2, 7), 10_000)
        with pytest.raises(PartFailed, match=r"part0.*index out of range"):
            parts.net(ids)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.zeros(2, 9),), "captured for float32"),
        ((torch.zeros(2, 8, dtype=torch.float64),), "is float64"),
        ((torch.zeros(0, 8),), "have 0 rows"),
        ((3,), "no tensor"),
        ((), "do not fit Mlp.forward"),
    ],
)
def test_inputs_that_the_module_was_not_captured_for_are_refused(
    inputs: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    net = Mlp([8, 8, 8]).eval()
    captured, model = capture_to(tmp_path, net, torch.randn(2, 8))
    with ModuleParts(captured, balance_layers(model, ["s0"]), net) as parts:
        with pytest.raises(UsageError, match=message):
            parts.net(*inputs)
        assert parts.net(torch.zeros(1, 8)).shape == (1, 8)


def test_a_frame_of_another_plan_version_is_not_computed(tmp_path: Path) -> None:
    net = Mlp([8, 8, 8]).eval()
    captured, model = capture_to(tmp_path, net, torch.randn(2, 8))
    with ModuleParts(captured, balance_layers(model, ["s0"]), net) as parts:
        assembly = parts.net._coordinator._assembly
        parcel = assembly.target.schedule.list_parcels("coordinator")[0]
        stale = parcel_frame(parcel, [np.zeros(16, np.float32)], step=1, batch=2, version=7)
        assembly.send(assembly.parts[0], stale)
        with pytest.raises(PartFailed, match="part0"):
            parts.net(torch.zeros(2, 8))


def test_a_server_proves_the_plan_itself(tmp_path: Path) -> None:
    import msgspec

    net = Mlp([8, 8, 8]).eval()
    captured, model = capture_to(tmp_path, net, torch.randn(2, 8))
    plan = balance_layers(model, ["s0"])
    other = msgspec.structs.replace(
        plan, model=msgspec.structs.replace(plan.model, fingerprint="0" * 32)
    )
    with pytest.raises(PlanError, match="another model"):
        ModuleParts(captured, other, net)


def test_stored_values_that_changed_are_not_computed_with(tmp_path: Path) -> None:
    net = Mlp([8, 8, 8]).eval()
    captured, model = capture_to(tmp_path, net, torch.randn(2, 8))
    plan = balance_layers(model, ["s0"])
    with ModuleParts(captured, plan, net):
        pass
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DigestMismatch, match="differs from its digest"):
        ModuleParts(captured, plan, net)
