"""Another plan over servers that are threads: it holds from one step on, and nothing that runs is
lost, or notices one that fails."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from partwise.distributor import Plan
from partwise.engine import takeover as takeover_module
from partwise.engine.scheduler import Limits
from partwise.errors import DeadlineExceeded, DeploymentClosed, PartFailed, PlanError
from partwise.model import Model
from partwise.part import assignment as assignment_module
from partwise.part import serving as serving_module
from partwise.part.accounts import Accounts
from partwise.part.machine import Phase
from partwise.part.runner import Runner, RunnerOptions
from partwise.part.serving import Serving
from support.parts import Parts, Setting, ignore_pass
from support.sharing import Computed, Sharing, share_layers

Between = Callable[[], None]
Stages = Sequence[tuple[int, int, Sequence[int]]]

TWO: Stages = [(0, 4, [1]), (4, 9, [1])]
OTHER_CUT: Stages = [(0, 7, [1]), (7, 9, [1])]
MEMBERS: Stages = [(0, 9, [1, 1])]
THREE: Stages = [(0, 3, [1]), (3, 6, [1]), (6, 9, [1])]
MIXED: Stages = [(0, 3, [1]), (3, 9, [2, 1])]
LAST_ALONE: Stages = [(0, 6, [1, 1]), (6, 9, [1])]
MANY = 400
"""Tokens that are not all there before a plan is in force."""
FIRSTS = (10, 20, 30, 40, 50, 60, 70, 80)


def plan_of(model: Model, stages: Stages, version: int) -> Plan:
    return share_layers(model, stages, Computed(plan_version=version))


class Scene(Sharing):
    """Counting runners; which part of which version computed each pass. ``on_load`` is called while
    a runner is made."""

    def __init__(
        self,
        on_pass: Callable = ignore_pass,
        on_load: Callable[[RunnerOptions], None] = lambda options: None,
    ) -> None:
        super().__init__(on_pass, num_noises=0)
        self.passes: list[tuple[int, str]] = []
        self.runners: dict[tuple[int, str], weakref.ref[Runner]] = {}
        self._on_load = on_load

    @property
    def make(self) -> Callable[[RunnerOptions], Runner]:
        inner = super().make

        def make(options: RunnerOptions) -> Runner:
            self._on_load(options)
            runner = inner(options)
            key = options.plan.plan_version, options.part
            self.runners[key] = weakref.ref(runner)
            return _Noted(runner, key, self.passes)

        return make

    def alive(self) -> set[tuple[int, str]]:
        return {key for key, found in self.runners.items() if found() is not None}


class _Noted:
    weight_bytes = host_bytes = 0
    notes = ()

    def __init__(self, runner: Runner, key: tuple[int, str], passes: list) -> None:
        self._runner, self._key, self._passes = runner, key, passes
        self.release = runner.release

    def run(self, *args: object) -> object:
        self._passes.append(self._key)
        return self._runner.run(*args)


def setting(scene: Scene, stages: Stages, **changes: object) -> Setting:
    return Setting(
        make_runner=scene.make, make_plan=lambda model: plan_of(model, stages, 1), **changes
    )


def start(parts: Parts, max_tokens: int) -> list:
    """Prompts of several lengths at once."""
    return [
        parts.submit(range(first - length, first + 1), max_tokens)
        for length, first in enumerate(FIRSTS)
    ]


def check(running: list, max_tokens: int) -> None:
    """Each went on counting, and none lost a token."""
    for first, generation in zip(FIRSTS, running, strict=True):
        ids = [token.token_id for token in generation]
        assert ids == [(first + 1 + i) % 384 for i in range(max_tokens)]


def wait_for(is_true: Callable[[], bool], what: object = "") -> None:
    stop_s = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < stop_s, f"it never came: {what}"
        time.sleep(0.002)


def find_servings(parts: Parts) -> list[Serving]:
    return [serving for server in parts.servers._servers for serving in server._held or ()]


@pytest.mark.parametrize("seed", [None, 3, 4])
@pytest.mark.parametrize(
    "path_of_plans",
    [
        [TWO, OTHER_CUT, TWO],
        [TWO, MEMBERS, OTHER_CUT],
        [MEMBERS, TWO, MEMBERS],
        [THREE, MIXED, LAST_ALONE, [(0, 9, [1, 1, 1])], THREE],
    ],
    ids=["cuts", "to members and back", "from members", "all kinds"],
)
def test_generations_under_way_lose_nothing(
    tiny_llama: Path, path_of_plans: list[Stages], seed: int | None
) -> None:
    scene = Scene()
    first, *others = path_of_plans
    limits = Limits(max_in_flight=4, max_rows=3, chunk_tokens=5)
    with Parts(tiny_llama, setting(scene, first, seed=seed, limits=limits)) as parts:
        num_passes = [0]
        running = start(parts, MANY)
        for version, stages in enumerate(others, 2):
            wait_for(lambda: len(scene.passes) > num_passes[-1] + 30, num_passes)
            parts.replan(plan_of(parts.model, stages, version))
            num_passes.append(len(scene.passes))
        check(running, MANY)
        assert len(scene.passes) > num_passes[-1] + 30, f"nothing ran any more: {num_passes}"
        check(start(parts, 3), 3)
    versions = [version for version, _ in scene.passes]
    assert set(versions) == set(range(1, 1 + len(path_of_plans)))


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """What is let go of is gone at once, or never."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_what_the_plan_before_had_is_dropped(tiny_llama: Path) -> None:
    scene = Scene()
    with Parts(tiny_llama, setting(scene, THREE)) as parts:
        running = start(parts, 60)
        for version, stages in enumerate([MIXED, THREE, LAST_ALONE], 2):
            parts.replan(plan_of(parts.model, stages, version))
        check(running, 60)
        wait_for(lambda: len(find_servings(parts)) == 3)
        assert {serving.plan_version for serving in find_servings(parts)} == {4}
        wait_for(lambda: scene.alive() == {(4, f"part{i}") for i in range(3)})
        for server in parts.servers._servers:
            # The coordinator's, and those of this plan: to the other member, and onwards.
            assert len(server._poller._links) <= 4
        assert [entry.part.name for entry in parts.coordinator.parts] == ["part0", "part1", "part2"]
        assert all(entry.loaded is not None for entry in parts.coordinator.parts)


def test_plans_follow_each_other_where_nothing_runs(tiny_llama: Path) -> None:
    with Parts(tiny_llama, setting(Scene(), TWO)) as parts:
        for version in (2, 5, 6, 7):
            parts.replan(plan_of(parts.model, MEMBERS if version % 2 else OTHER_CUT, version))
        wait_for(lambda: {serving.plan_version for serving in find_servings(parts)} == {7})
        check(start(parts, 5), 5)


@pytest.mark.parametrize("is_in_pieces", [True, False])
def test_the_old_plan_goes_on_while_the_next_is_loaded(
    tiny_llama: Path, is_in_pieces: bool
) -> None:
    may_end = threading.Event()

    def load(options: RunnerOptions) -> None:
        stop_s = time.monotonic() + 10
        while options.plan.plan_version == 2 and not may_end.is_set():
            if is_in_pieces:
                options.on_progress(1, 2)
            time.sleep(0.002)
            assert time.monotonic() < stop_s

    scene = Scene(on_load=load)
    with Parts(tiny_llama, setting(scene, TWO)) as parts:
        running = start(parts, 100)
        plan = plan_of(parts.model, MEMBERS, 2)
        thread = threading.Thread(target=parts.replan, args=(plan,))
        thread.start()
        wait_for(lambda: len(find_servings(parts)) == 4)
        check(running, 100)
        assert {version for version, _ in scene.passes} == {1}
        assert len(parts.coordinator.stats()) == 2
        with pytest.raises(PlanError, match="plan_version 2 is on its way: wait until"):
            parts.replan(plan_of(parts.model, OTHER_CUT, 3))
        may_end.set()
        thread.join(10)
        check(start(parts, 4), 4)
    assert {version for version, _ in scene.passes} == {1, 2}


def test_each_part_is_told_its_clock_under_each_plan(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(Accounts, "set_clock", lambda self, clock: told.append(self))
    with Parts(tiny_llama, setting(Scene(), THREE)) as parts:
        for version, stages in enumerate([MIXED, LAST_ALONE], 2):
            parts.replan(plan_of(parts.model, stages, version))
        check(start(parts, 3), 3)
    assert len(set(map(id, told))) == len(told) == 9


def test_counters_asked_for_at_any_time_are_of_one_plan(tiny_llama: Path) -> None:
    with Parts(tiny_llama, setting(Scene(), THREE)) as parts:
        running = start(parts, 200)
        is_over = threading.Event()
        found: list[int] = []

        def ask() -> None:
            while not is_over.is_set():
                found.append(len(parts.coordinator.stats()))

        thread = threading.Thread(target=ask)
        thread.start()
        for version, stages in enumerate([MIXED, LAST_ALONE, THREE], 2):
            parts.replan(plan_of(parts.model, stages, version))
        is_over.set()
        thread.join(10)
        assert not thread.is_alive(), "an answer never came"
        check(running, 200)
    assert found
    assert set(found) == {3}


def refuse(part: str, error: Exception) -> Callable[[RunnerOptions], None]:
    def load(options: RunnerOptions) -> None:
        if (options.plan.plan_version, options.part) == (2, part):
            raise error

    return load


def go_on(parts: Parts, running: list, max_tokens: int) -> None:
    """Nothing noticed version 2, which everyone forgot; version 3 takes over."""
    wait_for(lambda: {serving.plan_version for serving in find_servings(parts)} == {1})
    assert {serving.machine.phase for serving in find_servings(parts)} == {Phase.SERVING}
    parts.replan(plan_of(parts.model, MEMBERS, 3))
    check(running, max_tokens)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PlanError("no kernel for it"), "part1 does not prepare plan_version 2: no kernel for it"),
        (MemoryError("no room"), "part1 does not prepare .*: part1 stopped: MemoryError: no room"),
    ],
    ids=["told", "raised"],
)
def test_who_refuses_is_named_and_nothing_notices(
    tiny_llama: Path, error: Exception, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    scene = Scene(on_load=refuse("part1", error))
    with Parts(tiny_llama, setting(scene, TWO)) as parts:
        running = start(parts, 120)
        with pytest.raises(PlanError, match=says):
            parts.replan(plan_of(parts.model, MEMBERS, 2))
        with pytest.raises(PlanError, match="2 does not follow 2: number the plan 3 or higher"):
            parts.replan(plan_of(parts.model, MEMBERS, 2))
        go_on(parts, running, 120)
    assert {version for version, _ in scene.passes} == {1, 3}
    assert ("MemoryError" in capfd.readouterr().err) == isinstance(error, MemoryError)


def test_a_server_without_room_for_both_refuses_with_the_bytes(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Parts(tiny_llama, setting(Scene(), TWO)) as parts:
        running = start(parts, 60)
        with monkeypatch.context() as patch:
            patch.setattr(assignment_module, "available_bytes", lambda: 4096)
            says = (
                r"part\d does not prepare plan_version 2: part\d needs .* [KM]iB \(\d+ bytes\) for"
                r" .* beside what server 'server\d' holds, which may take 4.00 KiB \(4096 bytes\)"
            )
            with pytest.raises(PlanError, match=says):
                parts.replan(plan_of(parts.model, OTHER_CUT, 2))
        go_on(parts, running, 60)


@pytest.mark.parametrize("is_deaf", [False, True])
def test_who_is_late_is_named_and_nothing_notices(tiny_llama: Path, is_deaf: bool) -> None:
    is_over = threading.Event()

    def load(options: RunnerOptions) -> None:
        stop_s = time.monotonic() + 60  # longer than anybody waits for its end
        while (options.plan.plan_version, options.part) == (2, "part1") and not is_over.is_set():
            if not is_deaf:
                options.on_progress(1, 2)
            time.sleep(0.002)
            assert time.monotonic() < stop_s

    with Parts(tiny_llama, setting(Scene(on_load=load), TWO)) as parts:
        running = start(parts, 60)
        says = r"part1 did not prepare plan_version 2 in 0\.3 s"
        with pytest.raises(DeadlineExceeded, match=says):
            parts.replan(plan_of(parts.model, MEMBERS, 2), prepare_s=0.3)
        if is_deaf:
            is_over.set()
        go_on(parts, running, 60)


def test_who_does_not_reach_another_is_named_and_nothing_notices(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Parts(tiny_llama, setting(Scene(), THREE)) as parts:
        running = start(parts, 60)
        with monkeypatch.context() as patch:
            patch.setattr(serving_module, "Address", lambda host, port: (host, -port))
            says = "part. cannot run plan_version 2: part. cannot reach part.: nobody listens at"
            with pytest.raises(PlanError, match=says):
                parts.replan(plan_of(parts.model, MIXED, 2))
        wait_for(lambda: len(find_servings(parts)) == 3)
        parts.replan(plan_of(parts.model, LAST_ALONE, 3))
        check(running, 60)


def test_a_link_that_lacks_is_named_and_nothing_notices(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover_module, "CONNECT_S", 0.3)
    with Parts(tiny_llama, setting(Scene(), TWO)) as parts:
        running = start(parts, 60)
        with monkeypatch.context() as patch:
            patch.setattr(Serving, "_connect", lambda self, connect: None)
            says = r"part. on server .* did not reach part. for plan_version 2 in 0\.3 s"
            with pytest.raises(DeadlineExceeded, match=says):
                parts.replan(plan_of(parts.model, MEMBERS, 2))
        go_on(parts, running, 60)


def test_a_server_that_dies_while_it_prepares_ends_the_deployment_by_name(
    tiny_llama: Path,
) -> None:
    def load(options: RunnerOptions) -> None:
        if (options.plan.plan_version, options.part) == (2, "part1"):
            server = next(s for s in parts.servers._servers if s.name == "server1")
            server._host.is_stopped = True
            options.on_progress(1, 2)

    parts = Parts(tiny_llama, setting(Scene(on_load=load), TWO))
    with parts:
        running = start(parts, 10_000)
        with pytest.raises(PartFailed, match="part1 on server 'server1' went away"):
            parts.replan(plan_of(parts.model, MEMBERS, 2))
        for generation in running:
            with pytest.raises(PartFailed, match="part1 on server 'server1' went away"):
                list(generation)


def test_a_coordinator_that_leaves_while_a_server_prepares_frees_it(tiny_llama: Path) -> None:
    is_loading = threading.Event()

    def load(options: RunnerOptions) -> None:
        stop_s = time.monotonic() + 10
        while options.plan.plan_version == 2 and time.monotonic() < stop_s:
            is_loading.set()
            options.on_progress(1, 2)
            time.sleep(0.002)

    parts = Parts(tiny_llama, setting(Scene(on_load=load), TWO))
    with parts:
        plan = plan_of(parts.model, MEMBERS, 2)

        def replan() -> None:
            with pytest.raises(DeploymentClosed, match="closed"):
                parts.replan(plan)

        thread = threading.Thread(target=replan)
        thread.start()
        assert is_loading.wait(5)
        parts.coordinator.close()
        wait_for(lambda: not find_servings(parts))
        thread.join(5)
        assert not thread.is_alive()
