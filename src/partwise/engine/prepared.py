"""What is checked of a deployment, and of a prompt, before a server is started or reached."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from partwise.distributor import (
    NO_WISH,
    Plan,
    RunnerWish,
    balance_layers,
    check_runners,
    check_whole,
    choose_runner,
    verify_plan,
)
from partwise.distributor.devices import CPU, check_runner_on
from partwise.engine.sequence import Request
from partwise.engine.text import Text
from partwise.errors import PlanError, PromptError, UsageError
from partwise.model import Model
from partwise.remote.transport import Address, parse_address
from partwise.store import open_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model, its plan and the servers it names. No ``addresses``: servers of this machine.
    ``why`` says why its runner was chosen; empty where the plan was given."""

    path: Path
    model: Model
    plan: Plan
    text: Text
    addresses: dict[str, Address]
    why: str = ""

    def request(self, prompt: str, *, max_tokens: int, chat: bool | None) -> Request:
        """The request that answers ``prompt``; ``max_tokens`` is cut to what the context leaves
        (the request's own say whether it was).

        Raises:
            PromptError: an empty prompt, or one that does not fit the context.
        """
        is_chat = self.text.has_chat_template if chat is None else chat
        ids = self.text.encode_chat(prompt) if is_chat else self.text.encode(prompt)
        room = self.model.context_tokens - len(ids)
        request = Request(
            prompt_ids=ids,
            max_tokens=min(max_tokens, max(room, 1)),
            stop_ids=self.text.stop_ids,
        )
        self.check(request)
        return request

    def follow(self, plan: Plan) -> Prepared:
        """With ``plan`` instead, which is to follow the one in force over the same servers.

        Raises:
            PlanError: it is of another model or precision or over other servers, does not follow
                the plan in force, does not tile the model, or needs what the runners cannot do.
        """
        now = self.plan
        if plan.plan_version <= now.plan_version:
            raise PlanError(
                f"plan_version {plan.plan_version} does not follow {now.plan_version}, which is in"
                f" force: number the plan {now.plan_version + 1} or higher"
            )
        servers = [part.server for part in now.parts]
        verify_plan(plan, self.model, servers)
        if left_out := sorted({*servers} - {part.server for part in plan.parts}):
            raise PlanError(
                f"the plan has no part for {', '.join(left_out)}, which the deployment has: give"
                " each server one, or deploy anew with fewer"
            )
        check_whole(plan)
        check_runners(plan, self.model)
        for what, planned, runs in (
            ("version", {plan.model.version}, {now.model.version}),
            ("precision", _precisions(plan), _precisions(now)),
        ):
            if planned != runs:
                raise PlanError(
                    f"the plan is for {what} {_list(planned)} of {self.model.name} and"
                    f" {_list(runs)} runs: plan with that, or deploy anew"
                )
        return replace(self, plan=plan, why="")

    def check(self, request: Request) -> None:
        """Refuse a request that the model cannot run.

        Raises:
            PromptError: prompt and ``max_tokens`` exceed the context, or an id is not in the
                vocabulary.
        """
        length, context = len(request.prompt_ids), self.model.context_tokens
        if length >= context:
            raise PromptError(
                f"the prompt has {length} tokens and the context of {self.model.name} is"
                f" {context}: shorten it to {context - 1} or fewer"
            )
        if length + request.max_tokens > context:
            raise PromptError(
                f"{length} prompt tokens and {request.max_tokens} new ones exceed the context of"
                f" {context}: ask for {context - length} or fewer"
            )
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self.model.vocab_size:
            raise PromptError(
                f"a token id is outside the vocabulary 0..{self.model.vocab_size - 1}"
            )


def _precisions(plan: Plan) -> set[str]:
    return {part.precision for part in plan.parts}


def _list(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))


def prepare(
    model: str | Path,
    *,
    parts: int | None,
    servers: Sequence[str],
    plan: Plan | None,
    version: int | None = None,
    wish: RunnerWish = NO_WISH,
) -> Prepared:
    """Check what a model is to be deployed with, and plan it if no plan is given. ``version``
    is that of its parameters (None: the plan's, or the model's own files); ``wish`` says how its
    parts are to be computed, where the plan does not.

    Raises:
        UsageError: the numbers of parts, servers and parts of the plan differ, or the servers
            cannot all reach each other, or the plan is for another version or runner, or a device
            is asked of servers that have their own.
        ModelError, PlanError: the model cannot be deployed so.
        StoreError: there is no such version.
    """
    path = Path(model).resolve()
    addresses = read_addresses(servers)
    _check_counts(parts, list(addresses), plan)
    if addresses and wish.device != CPU:
        raise UsageError(
            f"the device {wish.device} is for servers of this machine: leave it out, and start the"
            f" others with `partwise server --device {wish.device}`"
        )
    described = open_version(path, _choose_version(version, plan))
    names = list(addresses) or _name_local(parts or 1, plan)
    why = ""
    if plan is None:
        choice = choose_runner(described, wish)
        plan = balance_layers(described, names, precision=choice.precision, runner=choice.runner)
        why = choice.reason
    else:
        verify_plan(plan, described, names)
        check_whole(plan)
        check_runners(plan, described)
        _check_wish(wish, plan)
    return Prepared(
        path=path, model=described, plan=plan, text=Text(path), addresses=addresses, why=why
    )


def _check_wish(wish: RunnerWish, plan: Plan) -> None:
    """A plan says how its parts are computed; a wish can only be the same."""
    for part in plan.parts:
        check_runner_on(part.runner, wish.device, part.name)
        for what, asked, planned in (
            ("precision", wish.precision, part.precision),
            ("runner", wish.runner or ("torch" if wish.is_deterministic else None), part.runner),
        ):
            if asked not in (None, planned):
                because = ", as deterministic runs are," if wish.is_deterministic else ""
                raise UsageError(
                    f"the {what} {asked} is asked for{because} and the plan gives {part.name}"
                    f" {planned}: plan with {asked}, or ask for {planned}"
                )


def _choose_version(version: int | None, plan: Plan | None) -> int:
    """The version of the parameters that is asked for, by itself or by the plan."""
    if plan is None:
        return version or 0
    if version not in (None, plan.model.version):
        raise UsageError(
            f"version {version} is asked for and the plan is for version {plan.model.version}:"
            " give one or the other"
        )
    return plan.model.version


def read_addresses(servers: Sequence[str]) -> dict[str, Address]:
    """The addresses of ``servers``, "HOST:PORT" each, by the names that a plan gives them.

    Raises:
        UsageError: not of that form, one given twice, or some on loopback and others not: the
            parts connect to each other directly.
    """
    parsed = [parse_address(text) for text in servers]
    addresses = {str(address): address for address in parsed}
    if len(addresses) < len(parsed):
        raise UsageError(f"a server is given twice in {','.join(servers)}: it hosts 1 part")
    near = [name for name, address in addresses.items() if address.is_loopback]
    far = [name for name, address in addresses.items() if not address.is_loopback]
    if near and far:
        raise UsageError(
            f"{near[0]} is an address of this machine alone and {far[0]} is not, but the servers"
            " connect to each other: give addresses that all of them reach"
        )
    return addresses


def _name_local(num_parts: int, plan: Plan | None) -> list[str]:
    """Servers that this machine starts: as many as are asked for, or those of the plan that
    are called as they are."""
    if plan is None:
        return [f"local-{i}" for i in range(num_parts)]
    named = [part.server for part in plan.parts if re.fullmatch(r"local-\d+", part.server)]
    return named or ["local-0"]


def _check_counts(parts: int | None, servers: Sequence[str], plan: Plan | None) -> None:
    """Parts, servers and the parts of the plan are as many, as far as they are given."""
    if parts is not None and parts < 1:
        raise UsageError(f"{parts} parts: ask for at least 1")
    if servers and parts is not None and parts != len(servers):
        raise UsageError(f"{parts} parts and {len(servers)} servers: give one or the other")
    if plan is None:
        return
    if parts is not None and parts != len(plan.parts):
        raise UsageError(f"{parts} parts and a plan of {len(plan.parts)}: give one or the other")
    wanted = ",".join(part.server for part in plan.parts)
    if servers and len(servers) != len(plan.parts):
        raise UsageError(
            f"{len(servers)} servers and a plan of {len(plan.parts)} parts: give its servers,"
            f" {wanted}"
        )
    if not servers and any(":" in part.server for part in plan.parts):
        raise UsageError(f"the plan is for servers that listen: give --servers {wanted}")
