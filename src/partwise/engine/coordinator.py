"""Drives the parts: composes steps, sends them to the first stage, takes picks from the last.

Steps are composed one ahead of what the parts compute, so that no part waits for this.

One thread owns all links and the scheduler. Other threads talk to it through a queue of
commands and a wake-up descriptor. Activations never come here.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from partwise.engine.assembly import Assembly, failure, loss
from partwise.engine.commands import Commands
from partwise.engine.diagnosis import Diagnosis
from partwise.engine.plan_parts import PartLink
from partwise.engine.readings import Answer, Readings
from partwise.engine.scheduler import Limits, Microbatch, Pick, Scheduler
from partwise.engine.sequence import (
    FinishReason,
    Generation,
    Request,
    Sequence,
    make_token,
)
from partwise.engine.succession import Succession
from partwise.engine.takeover import CONNECT_S, OF_NEXT_PLAN, Engine, NextPlan, Outcome
from partwise.errors import (
    DeadlineExceeded,
    DeploymentClosed,
    FrameError,
    Overloaded,
    PartwiseError,
    RemoteError,
)
from partwise.remote.frame import Frame, FrameKind, take_plain
from partwise.remote.layout import Array
from partwise.remote.link import Link
from partwise.remote.messages import (
    AnyMessage,
    Failed,
    GetStats,
    Message,
    Ping,
    Pong,
    Refused,
    Release,
    Stats,
    decode_message,
    message_frame,
)

STEP_S = 60.0
MAX_STEP_S = 86_400.0
"""A day: what waits longer is not waited for, and clocks and threads take no infinity."""
CLOSE_S = 10.0
"""How long the engine's thread may take to end."""
ANSWER_S = 3.0
"""How long a part may take to answer a ping before it is taken for dead."""
CHECK_S = 0.2
"""How often a caller that waits for counters looks whether the engine still runs."""
Answered = TypeVar("Answered")


@dataclass(slots=True, kw_only=True)
class _Sent:
    """A microbatch under way, and since when it could be computed."""

    microbatch: Microbatch
    time_s: float


class Coordinator:
    """Runs sequences over an assembled deployment. Methods may be called from any thread.

    After an error every generation ends with it, and so does each later call.
    """

    def __init__(
        self,
        assembly: Assembly,
        limits: Limits,
        *,
        explain: Callable[[str], str],
        step_s: float = STEP_S,
    ) -> None:
        self._parts = assembly.plan_parts
        self._poller = assembly.poller
        self._poller.take_over(self._on_frame, self._on_lost)
        self._explain = explain
        self._step_s = step_s
        self._scheduler = Scheduler(limits)
        engine = Engine(send=self._send, hold=self._scheduler.hold, switch_s=step_s)
        self._succession = Succession(self._parts, engine)
        self._generations: dict[int, Generation] = {}
        self._sequences: dict[int, Sequence] = {}
        self._sent: dict[int, _Sent] = {}
        self._diagnosis: Diagnosis | None = None
        self._readings = Readings()
        self._numbers = itertools.count(1)  # of sequences
        self._commands = Commands(self._poller)
        self._error: PartwiseError | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # Called from any thread

    def submit(self, request: Request) -> Generation:
        """Start generating.

        Raises:
            PartwiseError: the engine failed before, or is closed.
            Overloaded: too many requests run, or too many wait.
        """
        self._check()
        limits = self._scheduler.limits
        if len(self._generations) >= limits.max_sequences + limits.max_waiting:
            raise Overloaded(
                f"{len(self._generations)} requests run or wait, the limit: try again when one ends"
            )
        number = next(self._numbers)
        generation = Generation(
            request,
            cancel=lambda: self._command(lambda: self._cancel(number)),
            is_engine_alive=self._thread.is_alive,
        )
        self._generations[number] = generation
        try:
            self._command(lambda: self._start(number, request))
        except Overloaded:
            del self._generations[number]
            raise
        self._check()  # an engine that ended meanwhile takes no commands any more
        return generation

    def stats(self) -> list[Stats]:
        """Every part's counters, in stage order.

        Raises:
            DeadlineExceeded: a part does not answer.
            Overloaded: too much waits for the engine.
        """
        self._check()
        answer: Answer = queue.SimpleQueue()
        number = self._readings.number()
        self._command(lambda: self._ask_stats(number, answer))
        if (found := self._await(answer, self._step_s)) is not None:
            return found
        silent = self._readings.give_up(number)
        raise DeadlineExceeded(
            f"no counters from {', '.join(silent) or 'the engine'} in {self._step_s:g} s after step"
            f" {self._scheduler.last_step} (plan_version {self._parts.plan_version}): is it alive?"
        )

    @property
    def parts(self) -> tuple[PartLink, ...]:
        """The parts of the plan in force, in stage order."""
        return self._parts.all

    def replan(self, target: NextPlan) -> None:
        """Go on under another plan, and wait until it is in force. What runs loses nothing.

        Raises:
            PlanError: a part cannot run it, or another one is on its way; all goes on as before.
            DeadlineExceeded: a part was late; all goes on as before, unless the step was told.
            PartwiseError: the engine failed, or is closed.
        """
        self._check()
        outcome: Outcome = queue.SimpleQueue()
        self._command(lambda: self._succession.begin(target, outcome))
        wait_s = target.prepare_s + CONNECT_S + 2 * self._step_s
        found = self._await(outcome, wait_s)
        if isinstance(found, PartwiseError):
            raise found
        if found is None:
            raise DeadlineExceeded(f"no answer from the engine in {wait_s:g} s: is it alive?")

    def _await(self, answer: queue.SimpleQueue[Answered], wait_s: float) -> Answered | None:
        """What the engine answers; None: nothing in ``wait_s``."""
        stop_s = time.monotonic() + wait_s
        while time.monotonic() < stop_s:
            with contextlib.suppress(queue.Empty):
                return answer.get(timeout=min(CHECK_S, wait_s))
            self._check()
        return None

    def close(self) -> None:
        """End every generation and let the servers go."""
        if self._is_closed:
            return
        self._is_closed = True
        self._commands.wake()
        self._thread.join(timeout=CLOSE_S)
        self._commands.close()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_closed:
            raise DeploymentClosed("the deployment is closed: deploy the model again")

    def _command(self, command: Callable[[], None]) -> None:
        if self._error is None:  # nobody listens after the end
            self._commands.put(command)

    # The engine's thread

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._poller.poll(0.5)
                self._send_ready()
                self._watch_deadlines()
                if self._succession.takeover is not None:
                    self._follow_plan()
        except PartwiseError as exc:
            self._error = exc
        except Exception as exc:  # noqa: BLE001 - callers must not wait for a dead engine
            self._error = PartwiseError(f"the engine stopped: {type(exc).__name__}: {exc}")
            self._error.__cause__ = exc
        finally:
            self._poller.close()
            for generation in list(self._generations.values()):
                generation.put(self._error or FinishReason.CANCELLED)

    def _start(self, number: int, request: Request) -> None:
        self._sequences[number] = self._scheduler.add(number, request)

    def _cancel(self, number: int) -> None:
        sequence = self._sequences.get(number)
        if sequence is not None and not sequence.is_finished:
            self._scheduler.finish(sequence)
            self._end(sequence, FinishReason.CANCELLED)
            self._release_idle()

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        del self._sequences[sequence.number]
        self._generations.pop(sequence.number).put(reason)

    def _send_ready(self) -> None:
        while (microbatch := self._scheduler.next_microbatch()) is not None:
            frame = Frame(
                kind=FrameKind.FORWARD,
                plan_version=self._parts.plan_version,
                microbatch=microbatch.number,
                step=microbatch.step,
                rows=microbatch.rows,
                tensors=(np.array(microbatch.tokens, np.int64),),
            )
            self._sent[microbatch.number] = _Sent(microbatch=microbatch, time_s=time.monotonic())
            for entry in self._parts.first:
                self._send(entry, frame)

    def _send(self, entry: PartLink, frame: Frame) -> None:
        try:
            entry.link.send(frame)
        except RemoteError as exc:
            self._poller.lose(entry.link, exc)

    def _tell(self, entry: PartLink, message: Message) -> None:
        self._send(entry, message_frame(message, self._parts.plan_version))

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if frame.kind is FrameKind.CONTROL:
            self._on_message(link, decode_message(frame), frame.plan_version)
            return
        if frame.plan_version != self._parts.plan_version:
            raise FrameError(
                f"{link.name} sent a result of plan_version {frame.plan_version}:"
                f" {self._parts.plan_version} is in force"
            )
        is_result = frame.kind is FrameKind.RESULT and link is self._parts.leader.link
        tensors = take_plain(frame)
        is_result = is_result and bool(tensors) and tensors[0].dtype == np.int64
        if not is_result or tensors[0].ndim != 1:
            raise FrameError(
                f"{link.name} sent a {frame.kind.name} frame of {len(frame.tensors)} tensors: the"
                f" coordinator takes ids from {self._parts.leader.part.name} only"
            )
        self._on_result(link, frame, tensors)

    def _on_result(self, link: Link, frame: Frame, tensors: tuple[Array, ...]) -> None:
        if (sent := self._sent.pop(frame.microbatch, None)) is not None:
            self._start_clocks(sent.microbatch)
        picks = self._scheduler.complete(frame.microbatch, tensors[0].tolist())
        # The next step leaves before anything else is done: parts wait for it.
        self._send_ready()
        for pick in picks:
            self._report(pick, tensors)
        link.release(frame)
        self._release_idle()

    def _start_clocks(self, before: Microbatch) -> None:
        """What was composed ahead of this one's return can be computed from now on."""
        for sent in self._sent.values():
            if sent.microbatch.after == before.number:
                sent.time_s = time.monotonic()

    def _report(self, pick: Pick, tensors: tuple[Array, ...]) -> None:
        sequence = pick.sequence
        if not pick.is_stop:
            self._generations[sequence.number].put(
                make_token(pick.token_id, pick.index, tensors, sequence.request)
            )
        if pick.finish_reason is not None:
            self._end(sequence, pick.finish_reason)

    def _release_idle(self) -> None:
        idle = self._scheduler.take_idle()
        if idle:
            message = Release(
                sequences=tuple(sequence.number for sequence in idle),
                step=self._scheduler.last_step,
            )
            self._tell_all(message)

    def _on_message(self, link: Link, message: AnyMessage, plan_version: int) -> None:
        entry = self._parts.find(link)
        match message:
            case Stats():
                if plan_version == self._parts.plan_version:  # else it is asked anew
                    self._readings.take(entry.part.name, message)
            case _ if isinstance(message, OF_NEXT_PLAN):
                self._succession.take(link, message, plan_version)
            case Pong():
                if self._diagnosis is not None:
                    self._diagnosis.pongs[entry.part.name] = message
            case Failed():
                if message.error == RemoteError.__name__:
                    self._poller.poll(0.3)  # a part that died says more by its own link's end
                raise failure(entry.part, message)
            case Refused():
                raise FrameError(
                    f"{entry.part.name} refused step {message.step}"
                    f" (plan_version {self._parts.plan_version}): {message.text}"
                )
            case _:
                raise FrameError(f"{entry.part.name} sent {type(message).__name__} while serving")

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        raise loss(self._parts.find(link).part, error, self._explain)

    def _ask_stats(self, number: int, answer: Answer) -> None:
        self._readings.begin(number, self._parts.all, answer)
        self._tell_all(GetStats(number=number))

    def _tell_all(self, message: Message) -> None:
        for entry in self._parts.all:
            self._tell(entry, message)

    # A new plan

    def _follow_plan(self) -> None:
        """Go on under the plan that follows as soon as all know of it and nothing of the one before
        it is under way."""
        if not self._succession.advance() or self._scheduler.in_flight:
            return
        self._release_idle()
        takeover = self._succession.finish()
        self._parts, self._diagnosis = takeover.parts, None
        self._scheduler.restart(takeover.target.limits)
        for number in self._readings.begin_again(self._parts.all):
            self._tell_all(GetStats(number=number))
        self._send_ready()

    # Deadlines

    def _watch_deadlines(self) -> None:
        now_s = time.monotonic()
        if self._diagnosis is not None:
            if self._diagnosis.microbatch not in self._sent:
                self._diagnosis = None
            elif now_s > self._diagnosis.stop_s:
                parts = [entry.part for entry in self._parts.all]
                raise self._diagnosis.explain(parts, self._parts.leader.part)
            return
        # Of several that can be computed since then, the one that was sent first.
        oldest = min(self._sent.values(), key=lambda sent: sent.time_s, default=None)
        if oldest is not None and now_s - oldest.time_s > self._step_s:
            self._diagnosis = Diagnosis(
                microbatch=oldest.microbatch.number,
                step=oldest.microbatch.step,
                plan_version=self._parts.plan_version,
                step_s=self._step_s,
                answer_s=ANSWER_S,
                stop_s=now_s + ANSWER_S,
            )
            self._tell_all(Ping(number=0, sent_ns=time.monotonic_ns()))
