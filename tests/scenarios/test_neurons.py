"""Stages of several members by real runners: what they say is compared with transformers."""

from __future__ import annotations

import itertools
import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import partwise
from oracle_comparison import Comparison
from partwise.cli.main import main
from partwise.distributor import Plan, encode_plan
from partwise.distributor.plan import Precision, RunnerName
from partwise.engine.reports import report_parts
from partwise.engine.scheduler import Limits
from partwise.errors import PartFailed
from partwise.launch.listening import make_onnx_runner, make_torch_runner
from partwise.model import Model
from partwise.part.runner import Runner, RunnerOptions
from partwise.registry.routes import compile_routes
from partwise.remote.layout import Array
from support.decoders import save_decoder
from support.oracle import Oracle, random_prompts
from support.parts import Parts, Setting
from support.plans import Computed
from support.sharing import read_settled, share_layers

# Longer than a chunk, shorter, one token; together they share microbatches.
LENGTHS = (150, 3, 1, 40)
MAX_TOKENS = 6
ROUNDED = 0.05
"""How far sums in another order may be apart where products round their inputs to int8: measured up
to 0.015."""

SHARED = {
    "2": ("tiny_llama", [(0, 9, [1, 1])]),
    "3, uneven": ("tiny_llama", [(0, 9, [5, 2, 3])]),
    "tied, 2": ("tiny_llama_tied", [(0, 9, [7, 3])]),
    "gpt2, 3": ("tiny_gpt2", [(0, 8, [1, 1, 1])]),
    "3 between 2 whole": ("tiny_llama", [(0, 2, [1]), (2, 6, [1, 1, 1]), (6, 9, [1])]),
    "2, 3 and 2": ("tiny_llama", [(0, 3, [1, 1]), (3, 6, [1, 2, 1]), (6, 9, [1, 1])]),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture(scope="module")
def four_groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama with four groups of heads."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3}
    return save_decoder(tmp_path_factory.mktemp("four-groups"), "llama", **sizes)


class Listening:
    """Makes runners of torch, and keeps what the members of each stage give in every pass."""

    def __init__(self) -> None:
        self.given: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)

    def make(self, options: RunnerOptions) -> Runner:
        runner, start = make_torch_runner(options), options.plan.stage_of(options.part).start
        run, numbers = runner.run, itertools.count()

        def listen(*arguments: Any) -> tuple[Array, ...]:
            tensors = run(*arguments)
            data = b"".join(tensor.tobytes() for tensor in tensors)
            self.given[start, next(numbers)].append(data)
            return tensors

        runner.run = listen  # type: ignore[method-assign]
        return runner


@pytest.mark.parametrize(("model", "stages"), SHARED.values(), ids=SHARED)
def test_logits_of_every_step_are_those_of_transformers(
    model: str, stages: list, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    listening = Listening()
    setting = Setting(
        make_plan=lambda described: share_layers(described, stages),
        make_runner=listening.make,
        limits=Limits(max_in_flight=len(stages) + 1),
    )
    comparison = oracle.compare(path, random_prompts(*LENGTHS, seed=3), MAX_TOKENS, setting)
    assert comparison.is_within_bounds, comparison
    num_members = {start: len(weights) for start, _, weights in stages}
    for (start, number), given in listening.given.items():
        assert len(set(given)) == 1, "members hold other bits"
        # Whoever waits for no member any more may still be in its last pass when all is over.
        is_last = (start, number + 1) not in listening.given
        assert is_last or len(given) == num_members[start]


def test_four_members_under_random_delays(four_groups: Path, oracle: Oracle) -> None:
    stages = [(0, 6, [1, 1, 1, 1])]
    setting = Setting(make_plan=lambda model: share_layers(model, stages), seed=5)
    comparison = oracle.compare(four_groups, random_prompts(*LENGTHS), MAX_TOKENS, setting)
    assert comparison.is_within_bounds, comparison


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rounded_members_say_what_one_rounded_part_says(
    tiny_llama: Path, precision: Precision
) -> None:
    computed = Computed(runner="onnx", precision=precision)
    said = []
    for stages in ([(0, 9, [1])], [(0, 9, [1, 1])], [(0, 3, [1]), (3, 9, [2, 3])]):

        def make_plan(model: Model, stages: list = stages) -> Plan:
            return share_layers(model, stages, computed)

        setting = Setting(make_plan=make_plan, make_runner=make_onnx_runner)
        with Parts(tiny_llama, setting) as parts:
            said.append([answer[0].logits for answer in parts.generate(random_prompts(9, 20), 1)])
    for whole, *shared in zip(*said, strict=True):
        for logits in shared:
            assert np.abs(logits - whole).max() < ROUNDED * np.abs(whole).max()


def test_parts_send_the_bytes_that_routes_predict(tiny_llama: Path) -> None:
    stages = [(0, 4, [1, 1, 1]), (4, 9, [1, 1])]
    setting = Setting(
        make_plan=lambda model: share_layers(model, stages), limits=Limits(max_in_flight=1)
    )
    with Parts(tiny_llama, setting) as parts:
        all_routes = [compile_routes(parts.plan, parts.model, p.name) for p in parts.plan.parts]
        list(parts.submit([7, 8, 9], 5))
        stats = read_settled(parts, [5 * len(routes.exchanges) for routes in all_routes])
    reports = report_parts(parts.plan, parts.model, stats, None)
    for routes, report in zip(all_routes, reports, strict=True):
        # A prompt of three tokens, then four of one; one is picked after each.
        expected = routes.exchanged_bytes(3, 1) + 4 * routes.exchanged_bytes(1, 1)
        assert report.exchange is not None
        assert report.exchange.sent_bytes == expected
        sent_bytes = sum(link.moved_bytes for link in report.links)
        assert sent_bytes == routes.sent_hop_bytes(3) + 4 * routes.sent_hop_bytes(1)


@pytest.mark.parametrize(
    ("model", "runner"),
    [
        ("tiny_llama", "torch"),
        ("tiny_llama", "onnx"),
        ("tiny_mixtral", "torch"),
        ("smollm2", "torch"),
    ],
)
def test_two_processes_share_a_model(
    model: str, runner: RunnerName, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    described = partwise.open_model(path)
    stages = [(0, len(described.layers), [1, 1])]
    plan = share_layers(described, stages, Computed(runner=runner), server="local-")
    prompts = random_prompts(20, 4)
    comparison = Comparison(model=model, parts=2, mode="processes")
    with partwise.deploy(path, plan=plan, options=partwise.DeployOptions(threads=1)) as net:
        requests = [
            partwise.Request(prompt_ids=tuple(prompt), max_tokens=MAX_TOKENS, wants_logits=True)
            for prompt in prompts
        ]
        answers = [list(generation) for generation in map(net.submit, requests)]
        reports = net.reports()
    comparison.add_all(oracle.references(path, prompts, MAX_TOKENS), answers)
    assert comparison.is_within_bounds, comparison
    for report in reports:
        assert report.exchange is not None
        assert report.exchange.calls > 0
        assert report.links == ()


def test_a_member_that_is_killed_is_named(tiny_llama: Path) -> None:
    plan = share_layers(partwise.open_model(tiny_llama), [(0, 9, [1, 1])], server="local-")
    with partwise.deploy(tiny_llama, plan=plan, options=partwise.DeployOptions(threads=1)) as net:
        generation = net.submit(partwise.Request(prompt_ids=(1, 2), max_tokens=400))
        next(iter(generation))
        os.kill(net.pids["local-1"], signal.SIGKILL)
        with pytest.raises(PartFailed, match="part1 on server 'local-1' went away") as info:
            list(generation)
    assert info.value.part == "part1"


def test_the_command_line_runs_such_a_plan_and_says_what_was_exchanged(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = share_layers(partwise.open_model(tiny_llama), [(0, 9, [1, 1])], server="local-")
    path = tmp_path / "plan.json"
    path.write_bytes(encode_plan(plan))
    words = ["generate", str(tiny_llama), "Once", "--raw", "--max-tokens", "4"]
    assert main([*words, "--plan", str(path), "--threads", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    start = next(i for i, line in enumerate(lines) if "us/exchange" in line)
    assert [line.split()[0] for line in lines[start + 2 : start + 4]] == ["part0", "part1"]
