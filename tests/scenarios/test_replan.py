"""Another plan while a model answers: what real runners say is compared with transformers, and with
a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import partwise
from oracle_comparison import Comparison
from partwise.distributor import Plan
from partwise.distributor.plan import RunnerName
from partwise.engine.scheduler import Limits
from partwise.errors import DeadlineExceeded, PartFailed, PlanError, UsageError
from partwise.launch.listening import make_planned_runner
from support.oracle import Oracle, random_prompts
from support.parts import Parts, Setting
from support.sharing import Computed, share_layers

LENGTHS = (150, 3, 1, 40)
MAX_TOKENS = 24
TWO = [(0, 4, [1]), (4, 9, [1])]
OTHER_CUT = [(0, 7, [1]), (7, 9, [1])]
MEMBERS = [(0, 9, [1, 1])]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


def requests(prompts: Sequence[Sequence[int]]) -> list[partwise.Request]:
    return [
        partwise.Request(prompt_ids=tuple(prompt), max_tokens=MAX_TOKENS, wants_logits=True)
        for prompt in prompts
    ]


@pytest.mark.parametrize("runner", ["torch", "onnx"])
def test_logits_of_every_step_are_those_of_transformers(
    tiny_llama: Path, runner: RunnerName, oracle: Oracle
) -> None:
    def plan_of(model: partwise.Model, stages: list, version: int = 1) -> Plan:
        return share_layers(model, stages, Computed(runner=runner, plan_version=version))

    setting = Setting(
        make_plan=lambda model: plan_of(model, TWO),
        make_runner=make_planned_runner,
        limits=Limits(max_in_flight=3, max_rows=2),
    )
    prompts = random_prompts(*LENGTHS, seed=5)
    comparison = Comparison(model="tiny_llama", parts=2, mode="replanned")
    with Parts(tiny_llama, setting) as parts:
        running = [parts.coordinator.submit(request) for request in requests(prompts)]
        streams = [iter(generation) for generation in running]
        answers = [[next(stream) for _ in range(3)] for stream in streams]
        for version, stages in enumerate([OTHER_CUT, MEMBERS, TWO], 2):
            parts.replan(plan_of(parts.model, stages, version))
            for stream, answer in zip(streams, answers, strict=True):
                answer.append(next(stream))
        for stream, answer in zip(streams, answers, strict=True):
            answer.extend(stream)
    comparison.add_all(oracle.references(tiny_llama, prompts, MAX_TOKENS), answers)
    assert comparison.is_within_bounds, comparison


@pytest.mark.parametrize("runner", ["torch", "onnx"])
def test_processes_go_on_under_another_plan(
    tiny_llama: Path, runner: RunnerName, oracle: Oracle
) -> None:
    model = partwise.open_model(tiny_llama)

    def plan_of(stages: list, version: int) -> Plan:
        computed = Computed(runner=runner, plan_version=version)
        return share_layers(model, stages, computed, server="local-")

    options = partwise.DeployOptions(threads=1, max_in_flight=2)
    prompts = random_prompts(*LENGTHS, seed=6)
    comparison = Comparison(model="tiny_llama", parts=2, mode="processes")
    with partwise.deploy(tiny_llama, plan=plan_of(TWO, 1), options=options) as net:
        undisturbed = [
            [token.token_id for token in generation]
            for generation in map(net.submit, requests(prompts))
        ]
        streams = [iter(generation) for generation in map(net.submit, requests(prompts))]
        answers = [[next(stream) for _ in range(2)] for stream in streams]
        net.replan(plan_of(MEMBERS, 2))
        for stream, answer in zip(streams, answers, strict=True):
            answer.append(next(stream))
        net.replan(plan_of(OTHER_CUT, 3))
        for stream, answer in zip(streams, answers, strict=True):
            answer.extend(stream)
        assert net.plan.plan_version == 3
        assert [report.layers for report in net.reports()] == [
            model.describe_range(start, stop) for start, stop, _ in OTHER_CUT
        ]
        assert [name for name, *_ in net.memory] == ["part0", "part1"]
    assert [[token.token_id for token in answer] for answer in answers] == undisturbed
    comparison.add_all(oracle.references(tiny_llama, prompts, MAX_TOKENS), answers)
    assert comparison.is_within_bounds, comparison


def test_a_plan_that_cannot_follow_is_refused_and_nothing_notices(
    tiny_llama: Path, tiny_gpt2: Path
) -> None:
    model, other = partwise.open_model(tiny_llama), partwise.open_model(tiny_gpt2)

    def plan_of(described: partwise.Model, stages: list, server: str = "local-", **how) -> Plan:
        return share_layers(described, stages, Computed(**how), server=server)

    options = partwise.DeployOptions(threads=1)
    with partwise.deploy(tiny_llama, plan=plan_of(model, TWO), options=options) as net:
        generation = net.submit(partwise.Request(prompt_ids=(1, 2), max_tokens=200))
        following = plan_of(model, OTHER_CUT, plan_version=2)
        bad = [
            (
                plan_of(model, OTHER_CUT),
                "1 does not follow 1, which is in force: number the plan 2",
            ),
            (plan_of(other, [(0, 4, [1]), (4, 8, [1])], plan_version=2), "for another model"),
            (plan_of(model, OTHER_CUT, "host-", plan_version=2), "unknown server 'host-0'"),
            (plan_of(model, [(0, 9, [1])], plan_version=2), "has no part for local-1"),
            (plan_of(model, [(0, 9, [1, 1, 1])], plan_version=2), "unknown server 'local-2'"),
            (
                plan_of(model, TWO, plan_version=2, precision="int8", runner="onnx"),
                "for precision int8 of .* and fp32 runs",
            ),
        ]
        for plan, says in bad:
            with pytest.raises(PlanError, match=says):
                net.replan(plan)
        with pytest.raises(UsageError, match="timeout_s is 0, it must be above 0"):
            net.replan(following, timeout_s=0)
        assert net.plan.plan_version == 1
        net.replan(following)
        assert len(list(generation)) == 200
    with pytest.raises(partwise.PartwiseError, match="closed"):
        net.replan(plan_of(model, TWO, plan_version=3))


def test_a_process_that_dies_meanwhile_is_named(tiny_llama: Path) -> None:
    model = partwise.open_model(tiny_llama)
    first = share_layers(model, TWO, server="local-")
    following = share_layers(model, MEMBERS, Computed(plan_version=2), server="local-")
    with partwise.deploy(tiny_llama, plan=first, options=partwise.DeployOptions(threads=1)) as net:
        os.kill(net.pids["local-1"], signal.SIGSTOP)
        killer = threading.Timer(0.5, os.kill, (net.pids["local-1"], signal.SIGKILL))
        killer.start()
        with pytest.raises(PartFailed, match="part1 on server 'local-1' went away"):
            net.replan(following)
        killer.join()


def test_a_process_that_is_stopped_meanwhile_is_late_and_the_plan_goes_on(
    tiny_llama: Path,
) -> None:
    model = partwise.open_model(tiny_llama)
    first = share_layers(model, TWO, server="local-")
    following = share_layers(model, MEMBERS, Computed(plan_version=2), server="local-")
    with partwise.deploy(tiny_llama, plan=first, options=partwise.DeployOptions(threads=1)) as net:
        generation = net.submit(partwise.Request(prompt_ids=(1, 2), max_tokens=200))
        next(iter(generation))
        os.kill(net.pids["local-1"], signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded, match="part1 did not prepare plan_version 2"):
            net.replan(following, timeout_s=0.5)
        os.kill(net.pids["local-1"], signal.SIGCONT)
        assert len(list(generation)) == 199
        net.replan(share_layers(model, MEMBERS, Computed(plan_version=3), server="local-"))
        assert len(list(net.submit(partwise.Request(prompt_ids=(1, 2), max_tokens=5)))) == 5
