"""The plan: which server holds which neurons of which layers, and how they are joined.

A plan is a value that travels: msgspec structs, so that its JSON is validated when it is
read and round-trips exactly. `verify.py` proves that it tiles its model.

Layer-wise deployment is many stages of one member; neuron-wise deployment is one stage of
many members; every mixture is a plan too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from partwise.errors import PlanError

PLAN_FORMAT = 2
MAX_MLP_SPARSITY = 0.9
"""The largest share of MLP units that may be removed: beyond it nothing is left to calibrate."""

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
RunnerName = Literal["torch", "onnx"]
Codec = Literal["fp32", "bf16", "fp16", "int8"]
Rule = Literal["owned", "replicated", "alias"]
Gradient = Literal["owner", "sum"]


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the plan's structs."""


class NeuronShare(Value, frozen=True, kw_only=True):
    """Neurons of one kind that a member owns in layers of its stage.

    ``ranges`` are half-open, ascending and disjoint (none: other members own all of the
    kind); their bounds are multiples of ``granule`` (or the kind's count). ``layers`` are the
    model's ``start:stop`` that it is about; None: all of the stage.
    """

    kind: str
    ranges: tuple[tuple[int, int], ...]
    granule: int = 1
    layers: tuple[int, int] | None = None

    def is_about(self, layer: int) -> bool:
        """Whether it says what is owned in layer ``layer`` of the model."""
        return self.layers is None or self.layers[0] <= layer < self.layers[1]


class Member(Value, frozen=True, kw_only=True):
    """One part of a stage. No ``neurons``: it holds the stage's layers whole."""

    part: str
    neurons: tuple[NeuronShare, ...] = ()


class Stage(Value, frozen=True, kw_only=True):
    """Layers ``start:stop`` of the model, held by one part or shared by several."""

    start: int
    stop: int
    members: tuple[Member, ...]


class Part(Value, frozen=True, kw_only=True):
    """What one server holds. ``server`` names it in the cluster.

    ``mlp_sparsity`` is the share of its MLP units that was removed from each layer (structured
    sparsity: rows and columns are gone, not zero); neurons are counted before. ``runner``
    computes it.
    """

    name: str
    server: str
    precision: Precision = "fp32"
    runner: RunnerName = "torch"
    mlp_sparsity: float = 0.0


class Link(Value, frozen=True, kw_only=True):
    """A direction in which one part sends activations to another, packed by ``codec``.

    Of the links to a part the first in the plan is the one that its hidden state comes over
    (`senders.py`).
    """

    source: str
    target: str
    codec: Codec = "fp32"


class Placement(Value, frozen=True, kw_only=True):
    """Where one parameter lives.

    ``owned``: each element has one owner among ``parts`` (several: split by neurons).
    ``replicated``: every one of ``parts`` holds it whole; ``writer`` alone writes it, and the
    replicas' gradients are combined by ``gradient``.
    ``alias``: its bytes are those of ``of``; ``parts`` use it.
    """

    parameter: str
    rule: Rule
    parts: tuple[str, ...]
    writer: str | None = None
    gradient: Gradient = "owner"
    of: str | None = None


class ModelIdentity(Value, frozen=True, kw_only=True):
    """The model a plan is for, and the version of its parameters in the store."""

    name: str
    architecture: str
    fingerprint: str
    num_layers: int
    version: Annotated[int, msgspec.Meta(ge=0)] = 0


class Plan(Value, frozen=True, kw_only=True):
    """The stages of a model over servers, and the placement of every parameter.

    ``notes`` say to people what the strategy rounded, or chose instead of what was asked.
    """

    format: int = PLAN_FORMAT
    plan_version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 1  # a frame's 32 bits hold it
    strategy: str
    model: ModelIdentity
    stages: tuple[Stage, ...]
    parts: tuple[Part, ...]
    links: tuple[Link, ...]
    placements: tuple[Placement, ...]
    notes: tuple[str, ...] = ()

    def part(self, name: str) -> Part:
        """The part called ``name``.

        Raises:
            PlanError: no part has that name.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise PlanError(f"the plan has no part {name!r}: its parts are {self.part_names}")

    @property
    def part_names(self) -> str:
        return ", ".join(part.name for part in self.parts)

    def stage_of(self, part_name: str) -> Stage:
        """The stage in which ``part_name`` is a member (a part has exactly one).

        Raises:
            PlanError: the part is a member of no stage.
        """
        for stage in self.stages:
            if any(member.part == part_name for member in stage.members):
                return stage
        raise PlanError(f"part {part_name!r} is a member of no stage of the plan")


def encode_plan(plan: Plan) -> bytes:
    """The plan as indented JSON, the same bytes for the same plan."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"


def decode_plan(data: bytes) -> Plan:
    """A plan from its JSON.

    Raises:
        PlanError: not JSON, a field missing or of the wrong type, or a format of another
            partwise.
    """
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise PlanError(
            f"not a plan: {exc}; make one with `partwise plan MODEL --out FILE`"
        ) from exc
    if plan.format != PLAN_FORMAT:
        raise PlanError(
            f"the plan has format {plan.format}, this partwise reads format {PLAN_FORMAT}:"
            " make it again"
        )
    return plan


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        PlanError: the file cannot be read or is not a plan.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise PlanError(f"cannot read the plan {path}: {exc.strerror}") from exc
    return decode_plan(data)
