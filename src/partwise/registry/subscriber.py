"""A part's side of a new plan: prepares it, learns when it takes over, forgets what is over."""

from __future__ import annotations

from collections.abc import Callable

from partwise.distributor.plan import Plan, decode_plan
from partwise.errors import PartwiseError, PlanError
from partwise.registry.directory import Directory
from partwise.registry.registry import Registry
from partwise.registry.versions import PlanVersions
from partwise.remote.messages import (
    DropPlan,
    PlanChange,
    PlanReady,
    PlanRefused,
    PlanSwitched,
    SwitchPlan,
)

Told = PlanChange | SwitchPlan | DropPlan
Answer = PlanReady | PlanSwitched | PlanRefused


class Subscriber:
    """What `Publisher` talks to. One thread owns it.

    ``registry`` holds what runs. ``prepare(plan)`` makes a plan ready to run beside that and
    returns its directory: it trusts no plan that it has not verified, and may block. ``forget``
    is told of a version that is not needed any more.
    """

    def __init__(
        self,
        registry: Registry,
        prepare: Callable[[Plan], Directory],
        forget: Callable[[int], None],
    ) -> None:
        self.registry = registry
        self.versions = PlanVersions(registry.versions[-1])
        self._prepare = prepare
        self._forget = forget

    def handle(self, message: Told) -> Answer | None:
        """Do as told; what is to be answered (None: nothing)."""
        try:
            match message:
                case PlanChange():
                    return self._change(message)
                case SwitchPlan():
                    self.versions.switch(message.plan_version, message.at_step)
                    return PlanSwitched(plan_version=message.plan_version)
                case DropPlan():
                    self._drop(message.plan_version)
                    return None
        except PartwiseError as exc:
            return PlanRefused(plan_version=message.plan_version, text=str(exc))

    def _change(self, message: PlanChange) -> Answer:
        version, before = message.plan_version, self.versions.prepared
        if version != before:  # else it was told twice
            self.versions.prepare(version)
            self._let_go_of_others()
            try:
                self.registry = self.registry.add(self._open(message))
            except BaseException:
                self.versions.drop(version)
                raise
        return PlanReady(plan_version=version)

    def _open(self, message: PlanChange) -> Directory:
        plan = decode_plan(message.plan)
        if plan.plan_version != message.plan_version:
            raise PlanError(
                f"the plan has plan_version {plan.plan_version}, told was {message.plan_version}"
            )
        return self._prepare(plan)

    def _let_go_of_others(self) -> None:
        """Of all but the plan in force: first what is over, or prepared in vain, makes room."""
        for version in self.registry.versions:
            if version != self.versions.in_force:
                self._let_go(version)

    def _drop(self, plan_version: int) -> None:
        following = self.versions.following
        if following is not None and plan_version == self.versions.in_force:
            self.versions.begin(following[1])  # nothing of what it replaces is under way any more
        if self.versions.drop(plan_version):
            self._let_go(plan_version)

    def _let_go(self, plan_version: int) -> None:
        self.registry = self.registry.drop(plan_version)
        self._forget(plan_version)
