"""What one part of a plan receives, sends and exchanges in each pass: compiled once per version.

Bytes are those of tensors, as `Traffic` counts them: headers, row tables and descriptors of frames
come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from partwise.distributor.exchange import count_exchanges
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.senders import find_senders
from partwise.distributor.transfer import CANDIDATE_BYTES, hop_bytes
from partwise.distributor.workload import Workload
from partwise.model import Model

FP32_BYTES = 4
TOKEN_BYTES = 8
"""A token's id on its way from the coordinator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeCall:
    """What the members of a stage exchange, in a pass, of what the neurons of ``kind`` gave in
    ``layer``: a call of `Exchange` (`part/exchange.py`), of so many bytes a row by each of them.
    A sum has a row for each token, a gather one for each pick."""

    layer: int
    kind: str
    method: Literal["sum", "gather"]
    row_bytes: int

    def sent_bytes(self, num_rows: int, num_members: int, index: int) -> int:
        """Bytes that member ``index`` sends to the others.

        Two members send each other all they have, as all do that gather. More sum by
        reduce-scatter and all-gather: of the float32 values, cut into as many pieces as members
        as evenly as can be, each sends every other one that one's piece, and then to every other
        one the sum of its own.
        """
        total_bytes, num_others = num_rows * self.row_bytes, num_members - 1
        if self.method == "gather" or num_members == 2:
            return num_others * total_bytes
        values = total_bytes // FP32_BYTES
        own = values * (index + 1) // num_members - values * index // num_members
        return FP32_BYTES * (values - own + num_others * own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A leg of the hidden state's way, from or to ``part``: packed by ``codec``, in so many bytes
    a token."""

    part: str
    codec: str
    token_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The ways of one part under one ``plan_version``.

    ``members`` are those of its stage in the plan's order, itself at ``index``. The hidden state
    comes from ``source`` (None: tokens from the coordinator) and goes on to each of ``targets``.
    ``is_leader`` says that it tells the coordinator, and each of ``picks_for``, what was picked.
    ``exchanges`` are in the order of computing.
    """

    plan_version: int
    part: str
    members: tuple[str, ...]
    index: int
    source: Leg | None
    targets: tuple[Leg, ...]
    is_leader: bool
    picks_for: tuple[str, ...]
    exchanges: tuple[ExchangeCall, ...]

    @property
    def fellows(self) -> tuple[str, ...]:
        """The other members of its stage."""
        return self.members[: self.index] + self.members[self.index + 1 :]

    def received_hop_bytes(self, num_tokens: int) -> int:
        """Of the hidden state, or of the ids, that a pass of so many tokens brings."""
        return num_tokens * (self.source.token_bytes if self.source else TOKEN_BYTES)

    def sent_hop_bytes(self, num_tokens: int) -> int:
        """Of the hidden states that a pass of so many tokens sends to the next stage."""
        return num_tokens * sum(leg.token_bytes for leg in self.targets)

    def exchanged_bytes(self, num_tokens: int, num_picks: int) -> int:
        """What a pass of so many tokens, after so many of which one is picked, sends to the other
        members."""
        return sum(
            call.sent_bytes(
                num_tokens if call.method == "sum" else num_picks, len(self.members), self.index
            )
            for call in self.exchanges
        )


def compile_routes(plan: Plan, model: Model, part: str) -> Routes:
    """The ways of ``part`` under a verified plan.

    The leader of the last stage, which speaks for it, is its first member.

    Raises:
        PlanError: the plan has no such part.
    """
    stage = plan.stage_of(part)
    members = _list_parts(stage)
    place = plan.stages.index(stage)
    following = _list_parts(plan.stages[place + 1]) if place + 1 < len(plan.stages) else ()
    senders, codecs = find_senders(plan), {(k.source, k.target): k.codec for k in plan.links}

    def make_leg(other: str, source: str, target: str) -> Leg:
        codec = codecs[source, target]
        return Leg(part=other, codec=codec, token_bytes=int(hop_bytes(model, 1, codec)))

    is_leader = not following and members[0] == part
    return Routes(
        plan_version=plan.plan_version,
        part=part,
        members=members,
        index=members.index(part),
        source=make_leg(senders[part], senders[part], part) if place else None,
        targets=tuple(make_leg(to, part, to) for to in following if senders[to] == part),
        is_leader=is_leader,
        picks_for=tuple(name for name in _list_parts(plan.stages[0]) if name != part)
        if is_leader
        else (),
        exchanges=_list_exchanges(stage, model) if len(members) > 1 else (),
    )


def _list_parts(stage: Stage) -> tuple[str, ...]:
    return tuple(member.part for member in stage.members)


def _list_exchanges(stage: Stage, model: Model) -> tuple[ExchangeCall, ...]:
    """A sum of the hidden state, or a gather of candidates, for every kind that a layer splits."""
    hidden_bytes = int(hop_bytes(model, 1, "fp32"))
    calls = []
    # Any member will do: what one of them splits all of them name.
    shares = stage.members[0].neurons
    for i in range(stage.start, stage.stop):
        split = {share.kind for share in shares if share.is_about(i)}
        num_sums, _ = count_exchanges(model.layers[i].kind, Workload())
        for kind in model.layers[i].neuron_kinds:
            if kind.name in split:
                call = ExchangeCall(
                    layer=i,
                    kind=kind.name,
                    method="sum" if num_sums else "gather",
                    row_bytes=hidden_bytes if num_sums else CANDIDATE_BYTES,
                )
                calls.append(call)
    return tuple(calls)
