"""Control messages: fixed types, encoded with msgpack, carried by frames of kind CONTROL.

Bytes from outside are decoded and validated here, once.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from partwise.errors import FrameError
from partwise.remote.counters import Counters, Exchanged, TimeSpent, Traffic
from partwise.remote.frame import Frame, FrameKind

MAX_THREADS = 1024
"""The most that a server computes with."""
EXCHANGE_S = 60.0
"""How long a member of a stage may keep the others waiting, if nothing else is said."""
MAX_EXCHANGE_S = 86_400.0


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower):
    """Base of all control messages."""


class Assign(Message, frozen=True, kw_only=True):
    """Coordinator to server: hold this part. ``plan`` is the plan's JSON; 0 ``threads``: as many
    as the server decides; ``exchange_s`` is how long it waits for another member of its stage."""

    deployment: str
    plan: bytes
    part: str
    model_path: str
    threads: int
    exchange_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_EXCHANGE_S)] = EXCHANGE_S


class LoadProgress(Message, frozen=True, kw_only=True):
    """Server to coordinator while it loads."""

    done_bytes: int
    total_bytes: int


class Loaded(Message, frozen=True, kw_only=True):
    """Server to coordinator: its weights are in memory. ``notes`` are for people."""

    weight_bytes: int
    resident_bytes: int
    empty_resident_bytes: int
    notes: tuple[str, ...] = ()


class Connect(Message, frozen=True, kw_only=True):
    """Coordinator to server: connect to the part that listens there. The plan says what for: it
    has activations from you, or what was picked, or is another member of your stage."""

    part: str
    host: str
    port: int


class Connected(Message, frozen=True, kw_only=True):
    """Server to coordinator: the link to ``part`` stands, whoever of both connected."""

    part: str


class SetClock(Message, frozen=True, kw_only=True):
    """Coordinator to server: your clock is so far ahead of that of the part that sends to you (the
    leader of the last stage does to the first), and of mine."""

    ahead_ns: int
    ahead_of_coordinator_ns: int


class PlanChange(Message, frozen=True, kw_only=True):
    """Coordinator to server: get ready to run this plan, given as its JSON, beside the one in
    force."""

    plan: bytes
    plan_version: int


class PlanReady(Message, frozen=True, kw_only=True):
    """Server to coordinator: it could run that plan now."""

    plan_version: int


class SwitchPlan(Message, frozen=True, kw_only=True):
    """Coordinator to server: frames of this step and later ones are of that plan, which is ready
    everywhere."""

    plan_version: int
    at_step: int


class PlanSwitched(Message, frozen=True, kw_only=True):
    """Server to coordinator: it knows."""

    plan_version: int


class PlanRefused(Message, frozen=True, kw_only=True):
    """Server to coordinator: it cannot run that plan, or not from that step on. What is in force
    stays so."""

    plan_version: int
    text: str


class DropPlan(Message, frozen=True, kw_only=True):
    """Coordinator to server: that plan is not needed any more."""

    plan_version: int


class Release(Message, frozen=True, kw_only=True):
    """Coordinator to server: forget these sequences, of which no step after ``step`` has a row."""

    sequences: tuple[int, ...]
    step: int = 0


class Ping(Message, frozen=True, kw_only=True):
    """Are you there? Answered between two layers at the latest."""

    number: int
    sent_ns: int


class Pong(Message, frozen=True, kw_only=True):
    """The answer, with the clock of the answering server and where its steps stand: the last one
    taken, the last one finished, the oldest that is not (0: none), whether that one lacks tokens
    that are still to be picked, and for which other member of its stage it waits."""

    number: int
    sent_ns: int
    clock_ns: int
    received_step: int
    finished_step: int
    oldest_step: int = 0
    waits_for_picks: bool = False
    waits_for: str = ""


class GetStats(Message, frozen=True, kw_only=True):
    """Coordinator to server: send your counters."""

    number: int


class Stats(Message, frozen=True, kw_only=True):
    """Server to coordinator: the answer to GetStats."""

    number: int
    counters: Counters
    resident_bytes: int
    spent: TimeSpent = msgspec.field(default_factory=TimeSpent)
    received: Traffic = msgspec.field(default_factory=Traffic)
    sent: Traffic = msgspec.field(default_factory=Traffic)
    exchanged: Exchanged = msgspec.field(default_factory=Exchanged)


class CountPushed(Message, frozen=True, kw_only=True):
    """Coordinator to server of a captured module: what have you pushed, and to whom?"""


class Pushed(Message, frozen=True, kw_only=True):
    """Server of a captured module to coordinator: the frames that it has pushed to ``target``
    since it was assigned, and the bytes of their tensors. After the last, one of no target."""

    target: str
    frames: int
    tensor_bytes: int


class Failed(Message, frozen=True, kw_only=True):
    """Server to coordinator: it cannot go on with its assignment. ``error`` names a class of
    `partwise.errors`."""

    error: str
    text: str


class Refused(Message, frozen=True, kw_only=True):
    """Server to coordinator: one frame was not taken, the assignment stands."""

    microbatch: int
    step: int
    text: str


AnyMessage = (
    Assign
    | LoadProgress
    | Loaded
    | Connect
    | Connected
    | SetClock
    | PlanChange
    | PlanReady
    | SwitchPlan
    | PlanSwitched
    | PlanRefused
    | DropPlan
    | Release
    | Ping
    | Pong
    | GetStats
    | Stats
    | CountPushed
    | Pushed
    | Failed
    | Refused
)

_decoder = msgspec.msgpack.Decoder(AnyMessage)
_encoder = msgspec.msgpack.Encoder()


def message_frame(message: Message, plan_version: int = 0) -> Frame:
    """The control frame that carries ``message``."""
    return Frame(
        kind=FrameKind.CONTROL, plan_version=plan_version, message=_encoder.encode(message)
    )


def decode_message(frame: Frame) -> AnyMessage:
    """The message of a control frame.

    Raises:
        FrameError: not a message this partwise knows.
    """
    try:
        message: AnyMessage = _decoder.decode(frame.message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise FrameError(f"not a control message: {exc}") from exc
    return message
