"""What a server holds by plan_version: the part that it serves, and beside it, until one of both is
dropped, the one of the next plan.

Which steps are of which is the coordinator's to say (`registry/publisher.py`): here it is prepared,
told to the machines, and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator

from partwise.distributor.plan import Plan
from partwise.errors import PartwiseError, RemoteError
from partwise.part import events
from partwise.part.assignment import Assignment
from partwise.part.failures import explain_failure, explain_loss
from partwise.part.machine import ALL_STEPS
from partwise.part.serving import Abandoned, Host, Serving
from partwise.registry.directory import Directory
from partwise.registry.registry import Registry
from partwise.registry.subscriber import Subscriber, Told
from partwise.remote.link import Link
from partwise.remote.messages import (
    DropPlan,
    Failed,
    PlanChange,
    PlanRefused,
    PlanSwitched,
    SwitchPlan,
)


class Holdings:
    """The parts of one deployment on this server. The server's thread alone uses it."""

    def __init__(self, host: Host, assignment: Assignment) -> None:
        self._host = host
        self._servings: dict[int, Serving] = {}
        directory = Directory(plan=assignment.plan, model=assignment.model)
        self._subscriber = Subscriber(Registry((directory,)), self._prepare, self._forget)
        self._asked: PlanChange | None = None  # to be prepared when no pass is computed
        self._loading: Serving | None = None
        self._hold(assignment).apply(assignment.event())
        self.find = self._servings.get

    def __iter__(self) -> Iterator[Serving]:
        return iter(tuple(self._servings.values()))

    @property
    def in_force(self) -> Serving:
        """The part under which the last step was begun."""
        self._note_steps()
        return self._servings[self._subscriber.versions.in_force]

    @property
    def is_busy(self) -> bool:
        """Whether there is something to be done."""
        for serving in self._servings.values():
            if serving.todo:
                return True
        return self._asked is not None

    def do_all(self, but: Serving | None = None) -> None:
        """What each has to do, up to its second pass; ``but`` one."""
        for serving in self:
            if serving.todo and serving is not but:
                serving.do_all()

    def hear(self, message: Told) -> None:
        """The coordinator said so of a plan."""
        if isinstance(message, PlanChange):
            self._asked = message
        elif isinstance(message, DropPlan) and self._take_back(message.plan_version):
            return
        else:
            self._answer(message)

    def prepare_asked(self) -> None:
        """Prepare the plan that was asked for, if one was. Blocks; what runs goes on meanwhile."""
        if self._asked is None:
            return
        message, self._asked = self._asked, None
        try:
            self._answer(message)
        except Abandoned:
            return

    def _take_back(self, plan_version: int) -> bool:
        """Leave off preparing that version; whether that was wanted."""
        if self._asked is not None and self._asked.plan_version == plan_version:
            self._asked = None
            return True
        loading = self._loading
        if loading is not None and loading.plan_version == plan_version:
            loading.end()  # which its loading sees
            return True
        return False

    def _answer(self, message: Told) -> None:
        self._note_steps()
        answer = self._subscriber.handle(message)
        if isinstance(message, SwitchPlan) and isinstance(answer, PlanSwitched):
            self._span(message)
        if answer is not None:
            self._host.tell(answer, answer.plan_version)

    def _note_steps(self) -> None:
        for serving in self:
            machine = serving.machine
            last = max(machine.received_step, machine.finished_step)
            if last in machine.steps:  # a member that has begun none stands before its first
                self._subscriber.versions.begin(last)

    def _span(self, switch: SwitchPlan) -> None:
        """Tell all machines which steps are theirs."""
        for serving in self:
            start, stop = serving.machine.steps.start, switch.at_step
            if serving.plan_version == switch.plan_version:
                start, stop = switch.at_step, ALL_STEPS.stop
            serving.apply(events.Spanned(start, stop))

    def _hold(self, assignment: Assignment) -> Serving:
        serving = Serving(assignment, self._host)
        self._servings[serving.plan_version] = serving
        return serving

    def _prepare(self, plan: Plan) -> Directory:
        assignment = self.in_force.assignment.follow(plan)
        serving = self._loading = self._hold(assignment)
        try:
            serving.prepare()
        except BaseException as exc:
            self._forget(serving.plan_version)
            if isinstance(exc, Exception) and not isinstance(exc, Abandoned | PartwiseError):
                raise explain_failure(assignment.part, exc) from exc
            raise
        finally:
            self._loading = None
        return Directory(plan=plan, model=assignment.model)

    def _forget(self, plan_version: int) -> None:
        if (serving := self._servings.pop(plan_version, None)) is not None:
            serving.end()

    def lose(self, link: Link, error: RemoteError) -> None:
        """``link`` to another part ended."""
        for serving in self:
            if link in serving.links:
                if serving.links.forget(link):
                    self._lose_needed(serving, link, error)
                return

    def _lose_needed(self, serving: Serving, link: Link, error: RemoteError) -> None:
        versions = self._subscriber.versions
        last = versions.following[0] if versions.following else versions.in_force
        if serving.plan_version < last:
            # The other forgot this plan before we did; what is left of it here is in vain.
            serving.apply(events.Broken())
            return
        step = serving.machine.finished_step
        where = f"after step {step} (plan_version {serving.plan_version})"
        self.fail(serving, explain_loss(serving.machine.name, link.name, error, where))

    def fail(self, serving: Serving, error: Exception) -> None:
        """Tell the coordinator why ``serving`` ends, and end it: what is only prepared is no loss
        to what runs."""
        version = serving.plan_version
        if self.find(version) is not serving:
            return  # it was dropped meanwhile
        told = explain_failure(serving.machine.name, error)
        serving.apply(events.Broken())
        if version == self._subscriber.versions.prepared:
            self._host.tell(PlanRefused(plan_version=version, text=str(told)), version)
        else:
            self._host.tell(Failed(error=type(told).__name__, text=str(told)), version)

    def end(self) -> None:
        """The coordinator went away."""
        self._asked = None
        for version in tuple(self._servings):
            self._forget(version)
