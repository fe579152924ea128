"""A publisher waits for all answers, not forever, and names who gave none."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from partwise.distributor.plan import Plan
from partwise.errors import DeadlineExceeded, PlanError
from partwise.model import Model
from partwise.registry.directory import Directory
from partwise.registry.publisher import Publisher
from partwise.registry.registry import Registry
from partwise.registry.subscriber import Subscriber
from partwise.remote.channel import MemoryChannel
from partwise.remote.frame import Frame
from partwise.remote.link import Link
from partwise.remote.messages import (
    DropPlan,
    Message,
    PlanReady,
    PlanRefused,
    PlanSwitched,
    SwitchPlan,
    decode_message,
    message_frame,
)
from partwise.remote.poller import Poller
from support.plans import random_plan

NAMES = [f"part{i}" for i in range(8)]


class Post:
    """A publisher, and what it sent to whom."""

    def __init__(self, model: Model) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.in_force = 1
        self.publisher = Publisher(NAMES, self.send, plan_version=1)
        self.plans = {v: random_plan(random.Random(v), model, v) for v in range(1, 5)}

    def send(self, name: str, frame: Frame) -> None:
        assert frame.plan_version == self.in_force
        self.sent.append((name, decode_message(frame)))

    def answer(self, message: Message, *, but: str = "") -> None:
        for name in NAMES:
            if name != but:
                self.publisher.take(name, message)  # type: ignore[arg-type]


@pytest.fixture
def post(model: Model) -> Post:
    return Post(model)


def test_both_rounds_are_over_when_all_have_answered(post: Post) -> None:
    post.publisher.publish(post.plans[2], 60)
    assert [name for name, _ in post.sent] == NAMES
    post.answer(PlanReady(plan_version=2), but="part3")
    assert post.publisher.missing == ("part3",)
    post.publisher.take("part3", PlanReady(plan_version=1))
    post.publisher.take("part3", PlanSwitched(plan_version=2))
    assert post.publisher.missing == ("part3",)
    post.publisher.take("part3", PlanReady(plan_version=2))
    assert post.publisher.missing == ()
    post.sent.clear()
    post.publisher.switch(9, 60)
    assert post.sent == [(name, SwitchPlan(plan_version=2, at_step=9)) for name in NAMES]
    assert post.publisher.missing == tuple(NAMES)
    post.answer(PlanSwitched(plan_version=2))
    post.publisher.wait(lambda timeout_s: pytest.fail("nobody is waited for"))
    post.sent.clear()
    post.in_force = 2
    post.publisher.finish()
    assert post.sent == [(name, DropPlan(plan_version=1)) for name in NAMES]


def test_who_does_not_answer_in_time_is_named_with_what_was_asked(post: Post) -> None:
    post.publisher.publish(post.plans[3], 0.05)
    for name in NAMES[2:]:
        post.publisher.take(name, PlanReady(plan_version=3))
    start_s = time.monotonic()
    says = r"part0, part1 did not prepare plan_version 3 in 0\.05 s: are their hosts alive\?"
    with pytest.raises(DeadlineExceeded, match=says):
        post.publisher.wait(time.sleep)
    assert 0.04 < time.monotonic() - start_s < 2


def test_of_many_who_do_not_answer_some_are_named(post: Post) -> None:
    post.publisher.publish(post.plans[2], 60)
    post.answer(PlanReady(plan_version=2))
    post.publisher.switch(7, 0)
    says = "part0, part1, part2, part3 and 4 others did not switch to plan_version 2 at step 7 in"
    with pytest.raises(DeadlineExceeded, match=says):
        post.publisher.wait(lambda timeout_s: None)


def test_who_refuses_is_named_and_the_plan_can_be_withdrawn(post: Post) -> None:
    post.publisher.publish(post.plans[2], 60)
    with pytest.raises(PlanError, match="part5 does not prepare plan_version 2: no room"):
        post.publisher.take("part5", PlanRefused(plan_version=2, text="no room"))
    post.sent.clear()
    assert post.publisher.missing == tuple(NAMES)
    post.publisher.withdraw()
    assert post.publisher.missing == ()
    assert post.sent == [(name, DropPlan(plan_version=2)) for name in NAMES]
    post.publisher.check()
    with pytest.raises(PlanError, match="2 does not follow 2: number the plan 3 or higher"):
        post.publisher.publish(post.plans[2], 60)
    post.publisher.publish(post.plans[3], 60)
    post.answer(PlanReady(plan_version=2))  # late, of what was withdrawn
    assert post.publisher.missing == tuple(NAMES)


class Parts:
    """Subscribers at the other ends of links, driven by hand."""

    def __init__(self, model: Model, first: Plan, seed: int) -> None:
        registry = Registry((Directory(plan=first, model=model),))
        pairs = [MemoryChannel.pair(capacity=4096, seed=seed + i) for i in range(len(NAMES))]
        self.links = {n: Link(near, n) for n, (near, _) in zip(NAMES, pairs, strict=True)}
        self.ends = [Link(far, "coordinator") for _, far in pairs]
        self.sides = [
            Subscriber(registry, lambda plan: Directory(plan=plan, model=model), lambda v: None)
            for _ in NAMES
        ]
        self.poller = Poller(self._on_frame, lambda link, error: None, is_pressed=False)
        for link in self.links.values():
            self.poller.add_link(link)
        self.take: Callable[..., None] = lambda name, answer: None

    def _on_frame(self, link: Link, frame: Frame) -> None:
        self.take(link.name, decode_message(frame))

    def poll(self, timeout_s: float) -> None:
        for end, side in zip(self.ends, self.sides, strict=True):
            for frame in end.receive():
                answer = side.handle(decode_message(frame))
                if answer is not None:
                    end.send(message_frame(answer, frame.plan_version))
            end.flush()
        self.poller.poll(0)


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_reaches_all_over_links_that_cut_their_streams_at_random(
    model: Model, post: Post, seed: int
) -> None:
    parts = Parts(model, post.plans[1], seed)
    publisher = Publisher(NAMES, lambda name, frame: parts.links[name].send(frame), 1)
    parts.take = publisher.take
    publisher.publish(post.plans[4], 20)
    publisher.wait(parts.poll)
    assert all(side.registry.at(4).plan == post.plans[4] for side in parts.sides)
    publisher.switch(3, 20)
    publisher.wait(parts.poll)
    for side in parts.sides:
        assert [side.versions.find(step) for step in (2, 3)] == [1, 4]
    parts.poller.close()
