"""Another plan over servers that are threads: it holds from one step on, and nothing that runs is lost
or notices one that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from partwise.distributor import Plan
from partwise.engine.scheduler import Limits
from partwise.errors import DeadlineExceeded, PartFailed, PlanError
from partwise.model import Model, open_model
from partwise.part import assignment as assignment_module
from partwise.part.runner import Runner, RunnerOptions
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
FIRSTS = (10, 20, 30, 40, 50, 60, 70, 80)


def plan_of(model: Model, stages: Stages, version: int) -> Plan:
    return share_layers(model, stages, Computed(plan_version=version))


class Scene(Sharing):
    """Counting runners; which part of which version computed each pass, and what was dropped."""

    def __init__(self, on_pass: Callable = ignore_pass, on_load: Callable | None = None) -> None:
        super().__init__(on_pass, num_noises=0)
        self.passes: list[tuple[int, str]] = []
        self.alive: set[tuple[int, str]] = set()
        self._on_load = on_load

    @property
    def make(self) -> Callable[[RunnerOptions], Runner]:
        inner = super().make

        def make(options: RunnerOptions) -> Runner:
            if self._on_load is not None:
                self._on_load(options)
            runner, key = inner(options), (options.plan.plan_version, options.part)
            run = runner.run

            def noted(*args: object) -> object:
                self.passes.append(key)
                return run(*args)

            runner.run = noted  # type: ignore[method-assign, assignment]
            return runner

        return make


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


def wait_for(is_true: Callable[[], bool]) -> None:
    stop_s = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < stop_s, "it never came"
        time.sleep(0.002)


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
        running = start(parts, 150)
        for version, stages in enumerate(others, 2):
            num_passes = len(scene.passes)
            wait_for(lambda before=num_passes: len(scene.passes) > before + 30)
            parts.replan(plan_of(parts.model, stages, version))
        check(running, 150)
        check(start(parts, 3), 3)
    versions = [version for version, _ in scene.passes]
    assert set(versions) == set(range(1, 1 + len(path_of_plans)))
