from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partwise.engine import coordinator as coordinator_module
from partwise.engine.coordinator import _Sent
from partwise.engine.scheduler import Limits, Microbatch
from partwise.engine.sequence import FinishReason, Request
from partwise.errors import (
    DeadlineExceeded,
    DeploymentClosed,
    NotFinite,
    Overloaded,
    PartFailed,
    UsageError,
)
from partwise.launch.listening import make_torch_runner
from partwise.part.runner import Runner, RunnerOptions
from partwise.remote.tcp import TcpTransport
from support.parts import Parts, Setting, counting_runner, ignore_pass

pytestmark = pytest.mark.quiet

TOKEN = b"a token of a cluster of tests"
Between = Callable[[], None]


def counting(on_pass: Callable = ignore_pass, **options: object) -> Setting:
    setting = {"num_parts": 3, "make_runner": counting_runner(on_pass), **options}
    return Setting(**setting)


def ids(parts: Parts, first: int, max_tokens: int) -> list[int]:
    return [token.token_id for token in parts.submit([first], max_tokens)]


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_several_sequences_at_once_each_get_their_own_tokens(
    tiny_llama: Path, seed: int | None
) -> None:
    with Parts(tiny_llama, counting(seed=seed)) as parts:
        firsts = [10, 20, 30, 40, 50, 60, 70]
        running = [
            parts.submit(range(first - length, first + 1), 9) for length, first in enumerate(firsts)
        ]
        for first, generation in zip(firsts, running, strict=True):
            assert [token.token_id for token in generation] == list(range(first + 1, first + 10))
            assert generation.finish_reason is FinishReason.LENGTH


def test_the_same_over_tcp(tiny_llama: Path) -> None:
    with Parts(tiny_llama, counting(transport=TcpTransport(TOKEN))) as parts:
        running = [parts.submit(range(200 + i), 5) for i in range(4)]
        for i, generation in enumerate(running):
            assert [token.token_id for token in generation] == list(range(200 + i, 205 + i))


def test_a_stop_token_ends_a_generation_and_is_not_part_of_it(tiny_llama: Path) -> None:
    with Parts(tiny_llama, counting()) as parts:
        request = Request(prompt_ids=(5,), max_tokens=50, stop_ids=frozenset({9}))
        generation = parts.coordinator.submit(request)
        assert [token.token_id for token in generation] == [6, 7, 8]
        assert generation.finish_reason is FinishReason.STOP


def fail_at(part: str, number: int, may_fail: threading.Event | None = None) -> Callable:
    def on_pass(name: str, count: int, between_layers: Between) -> None:
        if (name, count) == (part, number):
            if may_fail is not None:
                may_fail.wait(5)
            raise RuntimeError("a broken runner")

    return on_pass


# The server prints the traceback for its operator.
@pytest.mark.parametrize(("part", "step"), [("part0", 1), ("part1", 3), ("part2", 4)])
def test_a_runner_that_raises_ends_every_generation_with_its_parts_name(
    tiny_llama: Path, part: str, step: int, capfd: pytest.CaptureFixture[str]
) -> None:
    may_fail = threading.Event()
    with Parts(tiny_llama, counting(fail_at(part, step, may_fail))) as parts:
        running = [parts.submit([7], 20), parts.submit([9], 20)]
        may_fail.set()
        for generation in running:
            with pytest.raises(PartFailed, match=f"{part}.*RuntimeError: a broken runner") as info:
                list(generation)
            assert info.value.part == part
        start_s = time.monotonic()
        with pytest.raises(PartFailed, match="a broken runner"):
            parts.submit([1], 1)
        with pytest.raises(PartFailed, match="a broken runner"):
            parts.coordinator.stats()
        assert time.monotonic() - start_s < 0.5, "a later call waited"
    assert "a broken runner" in capfd.readouterr().err


def test_tokens_before_a_failure_are_delivered_first(tiny_llama: Path) -> None:
    with Parts(tiny_llama, counting(fail_at("part1", 4))) as parts:
        tokens = []
        with pytest.raises(PartFailed):
            tokens.extend(token.token_id for token in parts.submit([7], 20))
        # extend keeps what came before the error
        assert tokens == [8, 9, 10]


@pytest.mark.parametrize(("part", "is_deaf"), [("part0", True), ("part2", False)])
def test_a_step_that_is_late_names_part_step_and_plan_version(
    tiny_llama: Path, part: str, is_deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "ANSWER_S", 0.3)
    is_over = threading.Event()

    def hang(name: str, count: int, between_layers: Between) -> None:
        stop_s = time.monotonic() + 10
        while (name, count) == (part, 3) and not is_over.is_set() and time.monotonic() < stop_s:
            is_over.wait(0.02)
            if not is_deaf:
                between_layers()

    with Parts(tiny_llama, counting(hang, step_s=0.4, plan_version=6)) as parts:
        generation = parts.submit([7], 20)
        what = "does not answer" if is_deaf else "computes"
        with pytest.raises(
            DeadlineExceeded, match=rf"{part} on server .* {what} at step 3 \(plan_version 6\)"
        ):
            list(generation)
        is_over.set()


def test_a_slow_step_within_the_deadline_is_no_error(tiny_llama: Path) -> None:
    def slow(name: str, count: int, between_layers: Between) -> None:
        if (name, count) == ("part1", 2):
            time.sleep(0.7)  # longer than the engine waits for events

    with Parts(tiny_llama, counting(slow, step_s=5)) as parts:
        assert ids(parts, 1, 4) == [2, 3, 4, 5]


def test_a_step_that_waits_for_the_one_before_it_is_not_late(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "ANSWER_S", 0)

    def compute(name: str, count: int, between_layers: Between) -> None:
        stop_s = time.monotonic() + (0.7 if count <= 3 else 0)
        while time.monotonic() < stop_s:
            time.sleep(0.02)
            between_layers()

    # Composed ahead, the second step is 1.4 s old when it is done.
    setting = counting(compute, num_parts=1, limits=Limits(max_in_flight=1), step_s=1)
    with Parts(tiny_llama, setting) as parts:
        assert ids(parts, 1, 4) == [2, 3, 4, 5]


def test_of_several_steps_the_one_that_could_be_computed_longest_ago_is_late(
    tiny_llama: Path,
) -> None:
    with Parts(tiny_llama, counting(step_s=30)) as parts:
        engine = parts.coordinator
        is_over = threading.Event()

        def find_late() -> None:
            now_s = time.monotonic()
            for number, age_s in ((1, 10), (2, 40), (3, 40), (4, 5)):
                microbatch = Microbatch(number=number, step=number, rows=(), tokens=(), after=None)
                engine._sent[number] = _Sent(microbatch=microbatch, time_s=now_s - age_s)
            engine._watch_deadlines()
            found.append(engine._diagnosis)
            engine._sent.clear()
            is_over.set()

        found: list = []
        engine._command(find_late)
        assert is_over.wait(5)
        assert found[0] is not None
        assert found[0].microbatch == 2


def test_a_cancelled_generation_ends_and_the_others_go_on(tiny_llama: Path) -> None:
    with Parts(tiny_llama, counting()) as parts:
        one, two = parts.submit([100], 100_000), parts.submit([200], 300)
        tokens = []
        for token in one:
            tokens.append(token.token_id)
            if len(tokens) == 5:
                one.cancel()
                one.cancel()
        assert one.finish_reason is FinishReason.CANCELLED
        assert tokens == list(range(101, 101 + len(tokens)))
        assert [token.token_id for token in two] == [*range(201, 384), *range(117)]
        assert ids(parts, 3, 2) == [4, 5]


def test_parts_forget_every_sequence_that_ended(tiny_llama: Path) -> None:
    runners: list[object] = []

    def make(options: RunnerOptions) -> Runner:
        runners.append(runner := counting_runner()(options))
        return runner

    with Parts(tiny_llama, Setting(num_parts=3, make_runner=make)) as parts:
        parts.coordinator.stats()  # its number is none of theirs
        for generation in [parts.submit([n], 3) for n in range(4)]:
            list(generation)
        cancelled = parts.submit([9], 10_000)
        cancelled.cancel()
        list(cancelled)
        parts.coordinator.stats()  # after every release
        stop_s = time.monotonic() + 5
        while time.monotonic() < stop_s and any(len(r.released) < 4 for r in runners):
            time.sleep(0.01)
    for runner in runners:
        assert {1, 2, 3, 4} <= set(runner.released)
        assert len(runner.released) == len(set(runner.released)), "released twice"


def test_counters_count_decode_tokens_on_every_part(tiny_llama: Path) -> None:
    limits = Limits(max_in_flight=1)
    with Parts(tiny_llama, counting(limits=limits)) as parts:
        ids(parts, 5, 11)
        stats = parts.coordinator.stats()
        # A prompt is no decode step, not even one of one token.
        assert [s.counters.tokens for s in stats] == [10, 10, 10]
        assert [s.counters.passes for s in stats] == [10, 10, 10]
        assert [s.counters.hops for s in stats] == [10, 10, 10]
        assert all(s.counters.compute_ns > 0 and s.counters.sent_bytes > 0 for s in stats)
        # Clocks are compared by round trips: on one machine a hop may come out below zero.
        assert all(abs(s.counters.hop_ns) < 10**9 for s in stats)


def test_closing_ends_generations_and_later_calls(tiny_llama: Path) -> None:
    parts = Parts(tiny_llama, counting())
    generation = parts.submit([1], 1_000_000)
    next(iter(generation))
    parts.close()
    for _ in generation:
        pass
    assert generation.finish_reason is FinishReason.CANCELLED
    with pytest.raises(DeploymentClosed, match="closed"):
        parts.submit([1], 1)


@pytest.mark.parametrize("call", ["submit", "stats"])
def test_a_call_that_meets_the_engine_as_it_fails_does_not_wait(
    tiny_llama: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Parts(tiny_llama, counting(fail_at("part0", 1))) as parts:
        engine = parts.coordinator
        check = engine._check
        is_first = iter([True])

        def check_then_let_it_fail() -> None:
            check()
            if next(is_first, False):
                engine._command(lambda: engine._start(99, Request(prompt_ids=(1,), max_tokens=1)))
                engine._thread.join(5)

        monkeypatch.setattr(engine, "_check", check_then_let_it_fail)
        start_s = time.monotonic()
        with pytest.raises(PartFailed, match="a broken runner"):
            list(parts.submit([1], 1)) if call == "submit" else engine.stats()
        assert time.monotonic() - start_s < 2


def test_a_part_that_computes_nan_is_named(tiny_llama: Path) -> None:
    def make(options: RunnerOptions) -> Runner:
        runner = make_torch_runner(options)
        if options.part == "part1":
            run = runner.run

            def poison(rows: list, inputs: list, between_layers: Between) -> tuple:
                if rows[0].position >= 2:
                    inputs = [np.full_like(inputs[0], np.nan)]
                return run(rows, inputs, between_layers)

            runner.run = poison
        return runner

    with Parts(tiny_llama, Setting(num_parts=3, make_runner=make)) as parts:
        generation = parts.submit([1], 8)
        tokens = []
        with pytest.raises(NotFinite, match="part1 .*NaN or infinity.* at position 2") as info:
            tokens.extend(generation)
        assert info.value.part == "part1"
        assert len(tokens) == 2
        with pytest.raises(NotFinite):
            parts.submit([1], 1)


def test_nan_logits_of_the_last_part_are_found(tiny_gpt2: Path) -> None:
    def make(options: RunnerOptions) -> Runner:
        runner = make_torch_runner(options)
        if options.part == "part1":
            runner._modules[-1].weight.data = runner._modules[-1].weight.data.clone()
            runner._modules[-1].weight.data[17, 3] = np.nan
        return runner

    with (
        Parts(tiny_gpt2, Setting(num_parts=2, make_runner=make)) as parts,
        pytest.raises(NotFinite, match="part1 .*head"),
    ):
        list(parts.submit([1, 2, 3], 8))


def test_more_requests_than_may_wait_are_refused_at_once(tiny_llama: Path) -> None:
    limits = Limits(max_in_flight=1, max_sequences=1, max_waiting=2)
    with Parts(tiny_llama, counting(limits=limits)) as parts:
        for _ in range(3):
            parts.submit([1], 1_000_000)
        with pytest.raises(Overloaded, match="3 requests run or wait"):
            parts.submit([1], 1)


def test_a_generation_that_failed_says_so_again(tiny_llama: Path) -> None:
    def fail(part: str, number: int, between_layers: Callable[[], None]) -> None:
        raise ValueError("broken")

    with Parts(tiny_llama, counting(fail)) as parts:
        generation = parts.submit([1], 5)
        for _ in range(2):
            with pytest.raises(PartFailed, match="broken"):
                next(iter(generation))


@pytest.mark.parametrize("name", ["max_in_flight", "chunk_tokens", "max_rows", "max_sequences"])
def test_limits_below_one_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Limits(**{"max_in_flight": 1, name: 0})


def test_log_probabilities_go_to_those_who_ask_whoever_shares_the_batch(tiny_llama: Path) -> None:
    setting = Setting(num_parts=2, limits=Limits(max_in_flight=1))
    prompts = [(1, 2, 3), (9, 8, 7, 6), (5, 4)]
    with Parts(tiny_llama, setting) as parts:
        running = [
            parts.coordinator.submit(
                Request(
                    prompt_ids=prompt,
                    max_tokens=6,
                    wants_logprobs=index != 1,
                    wants_logits=index != 0,
                )
            )
            for index, prompt in enumerate(prompts)
        ]
        answers = [list(generation) for generation in running]
        alone = parts.coordinator.submit(
            Request(prompt_ids=prompts[0], max_tokens=6, wants_logits=True)
        )
        logits_of_first = [token.logits for token in alone]
    assert all(token.logprob is None for token in answers[1])
    assert all(token.logits is None for token in answers[0])
    expected = zip(answers[0] + answers[2], logits_of_first + [t.logits for t in answers[2]],
                   strict=True)  # fmt: skip
    for token, logits in expected:
        assert logits is not None
        shifted = logits.astype(np.float64) - logits.max()
        logprob = shifted[token.token_id] - np.log(np.exp(shifted).sum())
        assert token.logprob == pytest.approx(logprob, abs=1e-4)


def test_commands_that_the_engine_does_not_take_are_refused_at_a_limit(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "MAX_COMMANDS", 3)
    with Parts(tiny_llama, counting()) as parts:
        engine = parts.coordinator
        is_over = threading.Event()
        engine._command(lambda: is_over.wait(5))
        stop_s = time.monotonic() + 5
        while engine._commands.qsize() and time.monotonic() < stop_s:
            time.sleep(0.001)
        running = [parts.submit([1], 2) for _ in range(3)]
        for _ in range(2):
            with pytest.raises(Overloaded, match="3 commands wait for the engine"):
                parts.submit([1], 2)
        assert len(engine._generations) == 3
        is_over.set()
        for generation in running:
            assert len(list(generation)) == 2


def test_cancelling_twice_is_one_command(tiny_llama: Path) -> None:
    with Parts(tiny_llama, counting()) as parts:
        generation = parts.submit([1], 100_000)
        commands: list[object] = []
        generation._cancel, cancel = (lambda: commands.append(1)), generation._cancel
        generation.cancel()
        generation.cancel()
        assert len(commands) == 1
        cancel()


def test_closing_has_a_deadline_of_its_own(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "CLOSE_S", 0.2)
    is_over = threading.Event()
    with Parts(tiny_llama, counting(step_s=20)) as parts:
        parts.coordinator._command(lambda: is_over.wait(5))
        start_s = time.monotonic()
        parts.coordinator.close()
        assert time.monotonic() - start_s < 3
        is_over.set()
        parts.coordinator._thread.join(5)
