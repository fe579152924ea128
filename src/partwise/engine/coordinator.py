"""Drives the parts: composes steps, sends them to the first stage, takes picks from the last.

Steps are composed one ahead of what the parts compute, so that no part waits for this.

One thread owns all links and the scheduler. Other threads talk to it through a queue of
commands and a wake-up descriptor. Activations never come here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from partwise.engine.assembly import Assembly, PartLink, failure, loss
from partwise.engine.diagnosis import Diagnosis
from partwise.engine.scheduler import Limits, Microbatch, Pick, Scheduler
from partwise.engine.sequence import FinishReason, Generation, Request, Sequence, Token
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
MAX_COMMANDS = 1 << 14
"""Those that may wait for the engine: each request has two, to start and to cancel it."""


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
        plan_version: int,
        explain: Callable[[str], str],
        step_s: float = STEP_S,
    ) -> None:
        self._parts, self._first, self._leader = assembly.parts, assembly.first, assembly.leader
        self._poller = assembly.poller
        self._poller.take_over(self._on_frame, self._on_lost)
        self._plan_version = plan_version
        self._explain = explain
        self._step_s = step_s
        self._scheduler = Scheduler(limits)
        self._generations: dict[int, Generation] = {}
        self._sequences: dict[int, Sequence] = {}
        self._sent: dict[int, _Sent] = {}
        self._diagnosis: Diagnosis | None = None
        self._stats: dict[int, tuple[queue.SimpleQueue[list[Stats]], list[Stats | None]]] = {}
        self._numbers = itertools.count(1)  # of sequences
        self._stats_numbers = itertools.count(1)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the wake-up descriptor
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.add(self._event, self._on_commands)
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
        answer: queue.SimpleQueue[list[Stats]] = queue.SimpleQueue()
        number = next(self._stats_numbers)
        self._command(lambda: self._ask_stats(number, answer))
        stop_s = time.monotonic() + self._step_s
        while time.monotonic() < stop_s:
            with contextlib.suppress(queue.Empty):
                return answer.get(timeout=min(CHECK_S, self._step_s))
            self._check()
        _, collected = self._stats.pop(number, (answer, []))
        silent = [e.part.name for e, s in zip(self._parts, collected, strict=False) if s is None]
        raise DeadlineExceeded(
            f"no counters from {', '.join(silent) or 'the engine'} in {self._step_s:g} s after step"
            f" {self._scheduler.last_step} (plan_version {self._plan_version}): is it alive?"
        )

    def close(self) -> None:
        """End every generation and let the servers go."""
        if self._is_closed:
            return
        self._is_closed = True
        with self._lock:
            os.eventfd_write(self._event, 1)
        self._thread.join(timeout=CLOSE_S)
        with self._lock:
            event, self._event = self._event, -1
        os.close(event)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_closed:
            raise DeploymentClosed("the deployment is closed: deploy the model again")

    def _command(self, command: Callable[[], None]) -> None:
        with self._lock:
            if self._event >= 0 and self._error is None:  # nobody listens after the end
                if self._commands.qsize() >= MAX_COMMANDS:
                    raise Overloaded(
                        f"{self._commands.qsize()} commands wait for the engine, the limit: try"
                        " again when it took some"
                    )
                self._commands.put(command)
                os.eventfd_write(self._event, 1)

    # The engine's thread

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._poller.poll(0.5)
                self._send_ready()
                self._watch_deadlines()
        except PartwiseError as exc:
            self._error = exc
        except Exception as exc:  # noqa: BLE001 - callers must not wait for a dead engine
            self._error = PartwiseError(f"the engine stopped: {type(exc).__name__}: {exc}")
            self._error.__cause__ = exc
        finally:
            self._poller.close()
            for generation in list(self._generations.values()):
                generation.put(self._error or FinishReason.CANCELLED)

    def _on_commands(self) -> None:
        os.eventfd_read(self._event)
        while not self._commands.empty():
            self._commands.get()()

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
                plan_version=self._plan_version,
                microbatch=microbatch.number,
                step=microbatch.step,
                rows=microbatch.rows,
                tensors=(np.array(microbatch.tokens, np.int64),),
            )
            self._sent[microbatch.number] = _Sent(microbatch=microbatch, time_s=time.monotonic())
            for entry in self._first:
                self._send(entry, frame)

    def _send(self, entry: PartLink, frame: Frame) -> None:
        try:
            entry.link.send(frame)
        except RemoteError as exc:
            self._poller.lose(entry.link, exc)

    def _tell(self, entry: PartLink, message: Message) -> None:
        self._send(entry, message_frame(message, self._plan_version))

    def _entry(self, link: Link) -> PartLink:
        return next(entry for entry in self._parts if entry.link is link)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if frame.kind is FrameKind.CONTROL:
            self._on_message(self._entry(link), decode_message(frame))
            return
        if frame.plan_version != self._plan_version:
            raise FrameError(
                f"{link.name} sent a result of plan_version {frame.plan_version}:"
                f" {self._plan_version} is in force"
            )
        is_result = frame.kind is FrameKind.RESULT and link is self._leader.link
        tensors = take_plain(frame)
        is_result = is_result and bool(tensors) and tensors[0].dtype == np.int64
        if not is_result or tensors[0].ndim != 1:
            raise FrameError(
                f"{link.name} sent a {frame.kind.name} frame of {len(frame.tensors)} tensors: the"
                f" coordinator takes ids from {self._leader.part.name} only"
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
            self._generations[sequence.number].put(_token(pick, tensors, sequence.request))
        if pick.finish_reason is not None:
            self._end(sequence, pick.finish_reason)

    def _release_idle(self) -> None:
        idle = self._scheduler.take_idle()
        if idle:
            message = Release(
                sequences=tuple(sequence.number for sequence in idle),
                step=self._scheduler.last_step,
            )
            for entry in self._parts:
                self._tell(entry, message)

    def _on_message(self, entry: PartLink, message: AnyMessage) -> None:
        match message:
            case Stats():
                self._on_stats(entry, message)
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
                    f" (plan_version {self._plan_version}): {message.text}"
                )
            case _:
                raise FrameError(f"{entry.part.name} sent {type(message).__name__} while serving")

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        raise loss(self._entry(link).part, error, self._explain)

    # Counters

    def _ask_stats(self, number: int, answer: queue.SimpleQueue[list[Stats]]) -> None:
        self._stats[number] = (answer, [None] * len(self._parts))
        for entry in self._parts:
            self._tell(entry, GetStats(number=number))

    def _on_stats(self, entry: PartLink, message: Stats) -> None:
        if message.number not in self._stats:
            return  # it was asked too long ago
        answer, collected = self._stats[message.number]
        collected[self._parts.index(entry)] = message
        complete = [stats for stats in collected if stats is not None]
        if len(complete) == len(collected):
            del self._stats[message.number]
            answer.put(complete)

    # Deadlines

    def _watch_deadlines(self) -> None:
        now_s = time.monotonic()
        if self._diagnosis is not None:
            if self._diagnosis.microbatch not in self._sent:
                self._diagnosis = None
            elif now_s > self._diagnosis.stop_s:
                parts = [entry.part for entry in self._parts]
                raise self._diagnosis.explain(parts, self._leader.part)
            return
        # Of several that can be computed since then, the one that was sent first.
        oldest = min(self._sent.values(), key=lambda sent: sent.time_s, default=None)
        if oldest is not None and now_s - oldest.time_s > self._step_s:
            self._diagnosis = Diagnosis(
                microbatch=oldest.microbatch.number,
                step=oldest.microbatch.step,
                plan_version=self._plan_version,
                step_s=self._step_s,
                answer_s=ANSWER_S,
                stop_s=now_s + ANSWER_S,
            )
            for entry in self._parts:
                self._tell(entry, Ping(number=0, sent_ns=time.monotonic_ns()))


def _token(pick: Pick, tensors: tuple[Array, ...], request: Request) -> Token:
    """The token of a pick, with what was asked for; copies what lives in the frame."""
    logprob = logits = None
    for tensor in tensors[1:]:
        if tensor.ndim == 1 and request.wants_logprobs:
            logprob = float(tensor[pick.index])
        elif tensor.ndim == 2 and request.wants_logits:
            logits = np.array(tensor[pick.index], np.float32)
    return Token(token_id=pick.token_id, logprob=logprob, logits=logits)
