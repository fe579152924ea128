"""Plans with stages of several members over servers that are threads, with runners that exchange
numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from partwise.engine import coordinator as coordinator_module
from partwise.engine.reports import report_parts
from partwise.engine.scheduler import Limits
from partwise.errors import DeadlineExceeded, FrameError, PartFailed, RemoteError
from partwise.part import members as members_module
from partwise.registry.routes import compile_routes
from partwise.remote.tcp import TcpTransport
from support.parts import Parts, Setting
from support.sharing import Computed, Sharing, read_settled, share_layers

SHARED = {
    "2 alone": [(0, 9, [1, 1])],
    "4 alone, uneven": [(0, 9, [5, 1, 1, 1])],
    "3 last": [(0, 4, [1]), (4, 9, [1, 1, 1])],
    "3 first": [(0, 4, [2, 1, 1]), (4, 9, [1])],
    "2 between": [(0, 3, [1]), (3, 6, [1, 1]), (6, 9, [1])],
    "2, 3 and 2": [(0, 3, [1, 1]), (3, 6, [1, 1, 1]), (6, 9, [1, 3])],
}
FIRSTS = (10, 20, 30, 40, 50, 60, 70, 80)
Between = Callable[[], None]


def shared(stages: list, scene: Sharing, **changes: object) -> Setting:
    version = changes.get("plan_version", 1)
    return Setting(
        make_runner=scene.make,
        make_plan=lambda model: share_layers(model, stages, Computed(plan_version=version)),
        **changes,
    )


def check_counting(parts: Parts, max_tokens: int = 7) -> None:
    """Prompts of several lengths at once, each goes on counting."""
    running = [
        parts.submit(range(first - length, first + 1), max_tokens)
        for length, first in enumerate(FIRSTS)
    ]
    for first, generation in zip(FIRSTS, running, strict=True):
        ids = [token.token_id for token in generation]
        assert ids == list(range(first + 1, first + 1 + max_tokens))


@pytest.mark.parametrize("stages", SHARED.values(), ids=SHARED)
def test_a_shared_stage_answers_and_its_members_hold_the_same_bits(
    tiny_llama: Path, stages: list
) -> None:
    scene = Sharing()
    with Parts(tiny_llama, shared(stages, scene)) as parts:
        check_counting(parts)
        check_counting(parts, 3)
    scene.check_same()


@pytest.mark.parametrize("seed", range(1, 13))
def test_eight_microbatches_in_flight_stay_whole_and_ordered_under_random_delays(
    tiny_llama: Path, seed: int
) -> None:
    scene = Sharing()
    limits = Limits(max_in_flight=8, max_rows=1, chunk_tokens=3)
    setting = shared(SHARED["2, 3 and 2"], scene, seed=seed, limits=limits)
    with Parts(tiny_llama, setting) as parts:
        check_counting(parts, 4)
    scene.check_same()


def test_the_same_over_tcp(tiny_llama: Path) -> None:
    scene = Sharing(num_noises=4)
    transport = TcpTransport(b"a token of a cluster of tests")
    with Parts(tiny_llama, shared(SHARED["2, 3 and 2"], scene, transport=transport)) as parts:
        check_counting(parts)
    scene.check_same()


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_each_target_has_its_own_packed_frames(tiny_llama: Path, codec: str) -> None:
    scene = Sharing(num_noises=0)
    stages = [(0, 4, [1]), (4, 9, [1, 1, 1])]

    def make_plan(model) -> object:
        plan = share_layers(model, stages)
        first, *others = plan.links
        links = (msgspec.structs.replace(first, codec=codec), *others)
        return msgspec.structs.replace(plan, links=links)

    with Parts(tiny_llama, Setting(make_runner=scene.make, make_plan=make_plan)) as parts:
        check_counting(parts)
        stats = parts.coordinator.stats()
        reports = report_parts(parts.plan, parts.model, stats, None)
    links = reports[0].links
    assert [(link.source, link.target) for link in links] == [
        ("part0", "part1"), ("part0", "part2"), ("part0", "part3"),
    ]  # fmt: skip
    assert [link.codec for link in links] == [codec, "fp32", "fp32"]
    assert len({link.frames for link in links}) == 1
    packed, *plain = links
    assert packed.moved_bytes < packed.plain_bytes
    assert all(link.moved_bytes == link.plain_bytes == packed.plain_bytes for link in plain)


def test_what_members_exchange_is_reported_as_routes_predict_it(tiny_llama: Path) -> None:
    scene = Sharing(num_noises=0)
    limits = Limits(max_in_flight=1)
    with Parts(tiny_llama, shared(SHARED["2, 3 and 2"], scene, limits=limits)) as parts:
        list(parts.submit([5], 1))
        before = read_settled(parts, [1, 1, 1, 1, 1, 2, 2])
        list(parts.submit([5], 5))
        stats = read_settled(parts, [6, 6, 6, 6, 6, 12, 12])
    for report in report_parts(parts.plan, parts.model, stats, before):
        routes = compile_routes(parts.plan, parts.model, report.name)
        call = routes.exchanges[0]
        assert call.method == "sum"
        is_last = report.name in ("part5", "part6")
        picks = 5 * 8 if is_last else 0
        expected = 5 * call.sent_bytes(1, len(routes.members), routes.index) + picks
        assert report.exchange is not None
        assert report.exchange.calls == (10 if is_last else 5)
        assert report.exchange.sent_bytes == expected
        assert 0 <= report.exchange.wait_s <= report.exchange.exchange_s
        assert report.exchange.ms_per_token > 0
        assert report.exchange.sent_bytes_per_token == report.exchange.sent_bytes / 5


def hang_at(part: str, count: int, is_over: threading.Event, *, is_deaf: bool) -> Callable:
    def hang(name: str, number: int, between_layers: Between) -> None:
        stop_s = time.monotonic() + 10
        while (name, number) == (part, count) and not is_over.is_set():
            is_over.wait(0.02)
            if not is_deaf:
                between_layers()
            if time.monotonic() > stop_s:
                return

    return hang


@pytest.mark.parametrize("is_deaf", [True, False])
@pytest.mark.parametrize("late", ["part0", "part2"])
def test_a_late_member_is_named_whoever_waits_for_it(
    tiny_llama: Path, late: str, is_deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "ANSWER_S", 0.3)
    is_over = threading.Event()
    scene = Sharing(hang_at(late, 3, is_over, is_deaf=is_deaf))
    setting = shared([(0, 9, [1, 1, 1])], scene, step_s=0.4, plan_version=6)
    with Parts(tiny_llama, setting) as parts:
        what = "does not answer" if is_deaf else "computes"
        says = rf"{late} on server .* {what} at step 3 \(plan_version 6\)"
        with pytest.raises(DeadlineExceeded, match=says):
            list(parts.submit([7], 20))
        is_over.set()


def test_a_member_that_waits_too_long_says_so_itself(tiny_llama: Path) -> None:
    is_over = threading.Event()
    scene = Sharing(hang_at("part1", 2, is_over, is_deaf=True))
    setting = shared([(0, 4, [1, 1]), (4, 9, [1])], scene, exchange_s=0.4, plan_version=6)
    with Parts(tiny_llama, setting) as parts:
        says = (
            r"part0 waited 0\.4 s for part1, a member of its stage, at step 2, exchange 1, round 1"
            r" \(plan_version 6\)"
        )
        with pytest.raises(DeadlineExceeded, match=says):
            list(parts.submit([7], 20))
        is_over.set()


@pytest.mark.quiet
def test_a_member_that_fails_ends_it_for_all(
    tiny_llama: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, number: int, between_layers: Between) -> None:
        if (name, number) == ("part1", 3):
            raise RuntimeError("a broken runner")

    with Parts(tiny_llama, shared([(0, 9, [1, 1, 1])], Sharing(fail))) as parts:
        with pytest.raises(PartFailed, match="part1 stopped: RuntimeError: a broken runner"):
            list(parts.submit([7], 20))
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 5, "the others wait for it still"
    assert "a broken runner" in capfd.readouterr().err


def test_a_link_between_members_that_ends_is_named_at_once(tiny_llama: Path) -> None:
    is_waiting = threading.Event()

    def wait(name: str, number: int, between_layers: Between) -> None:
        if (name, number) == ("part1", 3):
            is_waiting.set()
            time.sleep(0.5)

    with Parts(tiny_llama, shared([(0, 9, [1, 1])], Sharing(wait))) as parts:
        generation = parts.submit([7], 20)
        assert is_waiting.wait(5)
        server = next(s for s in parts.servers._servers if s.name == "server1")
        server._links.needed["part0"].channel.close()  # its own thread does not look at it now
        with pytest.raises(RemoteError, match="part0 lost its link to part1 after step 2"):
            list(generation)


def test_a_member_of_another_plan_version_is_refused_with_both_numbers(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = members_module.Frame

    def make(**fields: object) -> object:
        is_first = threading.current_thread().name == "server0"
        return frame(**{**fields, "plan_version": 5 if is_first else 6})

    monkeypatch.setattr(members_module, "Frame", make)
    with Parts(tiny_llama, shared([(0, 9, [1, 1])], Sharing(), plan_version=6)) as parts:
        says = (
            "part1 lost its link to part0 .*: part0 sent a partial sum of plan_version 5: part1"
            " serves plan_version 6"
        )
        with pytest.raises(FrameError, match=says):
            list(parts.submit([7], 20))
