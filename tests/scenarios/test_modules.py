"""Modules over real servers of this machine: what they give, what they send, how they end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import partwise
from support.digits import load_digits, train
from support.modules import call_whole, find_largest_error, list_tensors
from support.nets import Cnn, Mlp, make_net

DETERMINISTIC = partwise.DeployOptions(is_deterministic=True)


@pytest.mark.parametrize("name", ["resnet", "gpt2"])
def test_servers_give_what_the_module_gives(name: str) -> None:
    net, make_batch = make_net(name)
    inputs = make_batch(5)
    expected = call_whole(net, inputs)
    with partwise.deploy(net, make_batch(3), parts=2, options=DETERMINISTIC) as parts:
        results = list_tensors(parts(*inputs))
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    with partwise.deploy(net, make_batch(3), parts=2, strategy="count") as parts:
        for _ in range(2):
            assert find_largest_error(list_tensors(parts(*inputs)), expected) < 1e-5
        predicted = parts.predict_pushed(5)
        assert parts.count_pushed() == {pair: 2 * n for pair, n in predicted.items()}
        pids = parts.pids.values()
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    """Whether a process runs; who ended and was not reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.mark.parametrize("make", [lambda: Mlp([64, 48, 10]), Cnn])
def test_digits_are_told_as_by_the_whole_net(make: Any) -> None:
    torch.manual_seed(0)
    images, labels = load_digits()
    net = train(make(), images, labels)
    shown = images[-200:]
    (expected,) = call_whole(net, [shown])
    assert (expected.argmax(1) == labels[-200:]).float().mean() > 0.7
    strategy = ("percentage", {"percentages": [30, 70]})
    with partwise.deploy(net, images[:8], parts=2, options=DETERMINISTIC) as parts:
        assert torch.equal(parts(shown), expected)
    with partwise.deploy(net, images[:8], parts=2, strategy=strategy) as parts:
        assert find_largest_error([parts(shown)], [expected]) < 1e-5
        assert torch.equal(parts(shown).argmax(1), expected.argmax(1))


def test_servers_that_listen_hold_parts_of_one_module_after_the_other(
    tmp_path: Path, started: Any
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("0" * 64)
    words = ["--listen", "127.0.0.1:0", "--token-file", str(token_file), "--runner", "module"]
    servers = [
        subprocess.Popen(
            [sys.executable, "-m", "partwise.cli.main", "server", *words],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    lines = [server.stderr.readline() for server in servers if server.stderr]
    addresses = [re.search(r"listens on (127\.0\.0\.1:\d+)", line)[1] for line in lines]  # type: ignore[index]
    options = partwise.DeployOptions(token_file=token_file, module_folder=tmp_path / "module")
    for name in ("vit", "lstm"):
        net, make_batch = make_net(name)
        inputs = make_batch(2)
        percentages = dict(zip(addresses, (40, 60), strict=True))
        strategy = ("percentage", {"percentages": percentages})
        deployed = partwise.deploy(
            net, make_batch(2), servers=addresses, strategy=strategy, options=options
        )
        with deployed as parts:
            results = list_tensors(parts(*inputs))
            assert find_largest_error(results, call_whole(net, inputs)) < 1e-5
            assert [part.server for part in parts.plan.parts] == addresses
    for server in servers:
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=10)[1] == ""
        assert server.returncode == 0
