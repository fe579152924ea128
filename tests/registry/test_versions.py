"""Each step is computed under one plan_version by all parts, in whatever order things arrive."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.distributor.plan import Plan
from partwise.errors import PlanError
from partwise.model import Model
from partwise.registry.directory import Directory
from partwise.registry.publisher import Publisher
from partwise.registry.registry import Registry
from partwise.registry.subscriber import Subscriber
from partwise.registry.versions import PlanVersions
from partwise.remote.frame import Frame
from partwise.remote.messages import decode_message
from support.plans import random_plan

NUM_STEPS, NUM_CHANGES = 30, 3
Deliver = Callable[[], None]


class World:
    """A coordinator and parts, between whom what is sent arrives in order only on one way.

    Each version leads its frames through the parts in another order. ``waits``: the coordinator
    sends no frame of the new plan before all have said that they know the step.
    """

    def __init__(self, plans: list[Plan], model: Model, rng: random.Random, *, waits: bool) -> None:
        self.rng, self.waits = rng, waits
        self.names = [f"p{i}" for i in range(rng.randint(1, 4))]
        self.orders = {plan.plan_version: self._shuffle() for plan in plans}
        self.ways: dict[tuple[str, str, str], deque[Deliver]] = defaultdict(deque)
        first, *self.plans = plans
        registry = Registry((Directory(plan=first, model=model),))
        self.forgotten: dict[str, list[int]] = {name: [] for name in self.names}
        self.parts = {
            name: Subscriber(
                registry,
                lambda plan: Directory(plan=plan, model=model),
                self.forgotten[name].append,
            )
            for name in self.names
        }
        self.publisher = Publisher(self.names, self._tell, first.plan_version)
        self.version, self.last_step, self.at_step = first.plan_version, 0, 0
        self.phase = "idle"
        self.expected: dict[int, int] = {}
        self.computed: dict[int, list[int]] = defaultdict(list)
        self.returned: set[int] = set()
        self.refused: list[str] = []

    def _shuffle(self) -> list[str]:
        return self.rng.sample(self.names, len(self.names))

    def run(self) -> None:
        """Anything that may happen next, at random, until nothing can."""
        while moves := self._list_moves():
            self.rng.choice(moves)()

    def _list_moves(self) -> list[Deliver]:
        moves = [way.popleft for way in self.ways.values() if way]
        moves = [lambda take=take: take()() for take in moves]  # type: ignore[misc]
        is_next = self.phase == "switching" and self.last_step + 1 >= self.at_step
        is_held = is_next and self.waits and bool(self.publisher.missing)
        if self.last_step < NUM_STEPS and not is_held:
            moves.append(self._compose)
        if self.phase == "idle" and self.plans:
            moves.append(self._publish)
        if self.phase == "preparing" and not self.publisher.missing:
            moves.append(self._switch)
        if self.phase == "switching" and not self.publisher.missing and self._is_over():
            moves.append(self._finish)
        return moves

    def _is_over(self) -> bool:
        """A step of the new plan came back, and all of the old one."""
        olds = {step for step in self.expected if step < self.at_step}
        return self.at_step in self.returned and olds <= self.returned

    def _publish(self) -> None:
        self.phase = "preparing"
        self.publisher.publish(self.plans[0], 60)

    def _switch(self) -> None:
        self.phase = "switching"
        self.at_step = self.last_step + 1 + self.rng.randint(0, 3)
        self.publisher.switch(self.at_step, 60)

    def _finish(self) -> None:
        self.phase = "idle"
        self.version = self.plans.pop(0).plan_version
        self.publisher.finish()

    def _compose(self) -> None:
        step = self.last_step = self.last_step + 1
        is_new = self.phase == "switching" and step >= self.at_step
        version = self.plans[0].plan_version if is_new else self.version
        self.expected[step] = version
        self._forward("coordinator", self.orders[version], step, version)

    def _forward(self, source: str, order: list[str], step: int, version: int) -> None:
        if not order:
            way = self.ways["frame", source, "coordinator"]
            way.append(lambda: self.returned.add(step))
            return
        name = order[0]

        def arrive() -> None:
            versions = self.parts[name].versions
            if reason := versions.refuse(step, version):
                self.refused.append(reason)
            else:
                self.computed[step].append(versions.begin(step))
                self._forward(name, order[1:], step, version)

        self.ways["frame", source, name].append(arrive)

    def _tell(self, name: str, frame: Frame) -> None:
        def arrive() -> None:
            answer = self.parts[name].handle(decode_message(frame))
            if answer is not None:
                back = self.ways["message", name, "coordinator"]
                back.append(lambda: self.publisher.take(name, answer))

        self.ways["message", "coordinator", name].append(arrive)


@pytest.fixture(scope="module")
def plans(model: Model) -> list[Plan]:
    rng = random.Random(1)
    return [random_plan(rng, model, version) for version in range(1, NUM_CHANGES + 2)]


@settings(max_examples=400)
@given(st.integers(0, 1 << 30))
def test_each_step_is_computed_under_one_version_by_all_parts(
    plans: list[Plan], model: Model, seed: int
) -> None:
    world = World(plans, model, random.Random(seed), waits=True)
    world.run()
    assert world.refused == []
    assert world.last_step == NUM_STEPS
    for step, version in world.expected.items():
        assert world.computed[step] == [version] * len(world.names)
    versions = [world.expected[step] for step in sorted(world.expected)]
    assert versions == sorted(versions)
    for name, part in world.parts.items():
        assert part.registry.at(part.versions.in_force)
        assert world.forgotten[name] == sorted(set(world.forgotten[name]))


def test_without_waiting_for_all_some_step_would_meet_the_wrong_plan(
    plans: list[Plan], model: Model
) -> None:
    refused = 0
    for seed in range(100):
        world = World(plans, model, random.Random(seed), waits=False)
        world.run()
        refused += bool(world.refused)
    assert refused > 10


def test_the_new_version_takes_over_at_its_step_and_old_steps_stay_old() -> None:
    versions = PlanVersions(4, last_step=10)
    versions.prepare(5)
    assert (versions.in_force, versions.prepared, versions.following) == (4, 5, None)
    versions.switch(5, 13)
    versions.switch(5, 13)
    assert versions.following == (5, 13)
    assert [versions.begin(step) for step in (11, 12, 13, 12, 14)] == [4, 4, 5, 4, 5]
    assert (versions.in_force, versions.following) == (5, None)
    assert versions.refuse(12, 4) is None
    assert versions.refuse(14, 5) is None
    assert versions.refuse(12, 5) == "step 12 is of plan_version 4, the frame is of 5"
    assert versions.refuse(14, 4) == "step 14 is of plan_version 5, the frame is of 4"
    assert versions.drop(4)
    assert not versions.drop(4)
    assert versions.refuse(12, 4) == "step 12 is of plan_version 5, the frame is of 4"


def test_steps_of_a_plan_that_is_over_are_refused_once_another_is_prepared() -> None:
    versions = PlanVersions(4)
    versions.prepare(5)
    versions.switch(5, 13)
    versions.begin(13)
    assert versions.refuse(12, 4) is None
    versions.prepare(6)
    assert versions.refuse(12, 4) == "step 12 is of plan_version 5, the frame is of 4"


def test_what_does_not_follow_is_refused_with_the_numbers() -> None:
    versions = PlanVersions(4, last_step=10)
    with pytest.raises(
        PlanError, match="plan_version 4 is stale: 4 is in force, number the plan 5"
    ):
        versions.prepare(4)
    with pytest.raises(PlanError, match="5 cannot take over at step 12: nothing is prepared"):
        versions.switch(5, 12)
    versions.prepare(6)
    versions.prepare(5)
    with pytest.raises(PlanError, match="6 cannot take over at step 12: 5 is prepared"):
        versions.switch(6, 12)
    with pytest.raises(PlanError, match="at step 10: step 10 is begun under 4; name a later one"):
        versions.switch(5, 10)
    versions.switch(5, 12)
    with pytest.raises(PlanError, match="7 comes too soon: 5 takes over at step 12 and the last"):
        versions.prepare(7)
    for held in (4, 5):
        with pytest.raises(PlanError, match=f"plan_version {held} is in use"):
            versions.drop(held)
    versions.begin(12)
    versions.prepare(7)
    assert versions.drop(7)
    assert versions.prepared is None
    with pytest.raises(PlanError, match="plan_version 5 is in use"):
        versions.drop(5)
