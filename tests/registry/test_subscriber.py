"""A part takes the next plan beside its own, refuses what it cannot run, and forgets in time."""

from __future__ import annotations

import random

import msgspec
import pytest

from partwise.distributor.plan import Plan
from partwise.errors import PlanError
from partwise.model import Model
from partwise.registry.directory import Directory
from partwise.registry.registry import Registry
from partwise.registry.subscriber import Subscriber
from partwise.remote.messages import (
    DropPlan,
    PlanChange,
    PlanReady,
    PlanRefused,
    PlanSwitched,
    SwitchPlan,
)
from support.plans import random_plan


class Side:
    """A subscriber that runs version 1, what it prepared and what it forgot."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.rng = random.Random(1)
        self.prepared: list[int] = []
        self.forgotten: list[int] = []
        self.error: BaseException | None = None
        first = Directory(plan=random_plan(self.rng, model), model=model)
        self.subscriber = Subscriber(Registry((first,)), self.prepare, self.forgotten.append)

    def prepare(self, plan: Plan) -> Directory:
        self.prepared.append(plan.plan_version)
        if self.error is not None:
            raise self.error
        return Directory(plan=plan, model=self.model)

    def change(self, version: int, told: int | None = None):
        plan = random_plan(self.rng, self.model, version)
        message = PlanChange(plan=msgspec.json.encode(plan), plan_version=told or version)
        return self.subscriber.handle(message)

    @property
    def held(self) -> tuple[int, ...]:
        return self.subscriber.registry.versions


@pytest.fixture
def side(model: Model) -> Side:
    return Side(model)


def test_a_plan_is_prepared_once_and_takes_over_at_its_step(side: Side) -> None:
    assert side.change(2) == side.change(2) == PlanReady(plan_version=2)
    assert (side.prepared, side.held) == ([2], (1, 2))
    told = SwitchPlan(plan_version=2, at_step=5)
    assert side.subscriber.handle(told) == PlanSwitched(plan_version=2)
    assert side.subscriber.versions.begin(5) == 2
    assert side.subscriber.handle(DropPlan(plan_version=1)) is None
    assert (side.forgotten, side.held) == ([1], (2,))


def test_what_is_prepared_in_vain_makes_room_before_the_next_is_prepared(side: Side) -> None:
    side.change(2)
    side.change(3)
    assert (side.forgotten, side.held) == ([2], (1, 3))
    assert side.subscriber.handle(DropPlan(plan_version=3)) is None
    assert (side.forgotten, side.held) == ([2, 3], (1,))
    assert side.subscriber.handle(DropPlan(plan_version=3)) is None
    assert side.forgotten == [2, 3]


def test_a_plan_that_was_replaced_makes_room_too(side: Side) -> None:
    side.change(2)
    side.subscriber.handle(SwitchPlan(plan_version=2, at_step=5))
    side.subscriber.versions.begin(5)
    side.change(3)
    assert (side.forgotten, side.held) == ([1], (2, 3))


def test_a_plan_that_cannot_be_prepared_leaves_all_as_it_was(side: Side) -> None:
    side.error = PlanError("it does not fit")
    assert side.change(2) == PlanRefused(plan_version=2, text="it does not fit")
    assert side.held == (1,)
    side.error = MemoryError()
    with pytest.raises(MemoryError):
        side.change(3)
    side.error = None
    assert side.subscriber.versions.prepared is None
    assert side.change(2) == PlanReady(plan_version=2)


def test_what_makes_no_sense_is_refused_with_its_reason(side: Side) -> None:
    def text(answer: object) -> str:
        assert isinstance(answer, PlanRefused)
        return answer.text

    assert "plan_version 1 is stale" in text(side.change(1))
    assert "the plan has plan_version 2, told was 3" in text(side.change(2, told=3))
    broken = PlanChange(plan=b"{}", plan_version=2)
    assert "not a plan" in text(side.subscriber.handle(broken))
    told = SwitchPlan(plan_version=2, at_step=5)
    assert "nothing is prepared" in text(side.subscriber.handle(told))
    assert "is in use" in text(side.subscriber.handle(DropPlan(plan_version=1)))
    assert side.held == (1,)


def test_a_plan_is_dropped_before_a_step_of_the_next_one_where_nothing_runs(side: Side) -> None:
    side.change(2)
    side.subscriber.handle(SwitchPlan(plan_version=2, at_step=5))
    assert side.subscriber.handle(DropPlan(plan_version=1)) is None
    assert (side.forgotten, side.held) == ([1], (2,))
    assert side.subscriber.versions.in_force == 2
    assert side.change(3) == PlanReady(plan_version=3)
