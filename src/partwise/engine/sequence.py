"""One request's tokens while it runs, and the handle by which its caller follows it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from partwise.errors import DeploymentClosed, PartwiseError, PromptError
from partwise.remote.frame import RowFlag
from partwise.remote.layout import Array

CHECK_S = 1.0


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to generate. ``stop_ids`` end the sequence and are not returned.

    Raises:
        PromptError: an empty prompt, or ``max_tokens`` below 1.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    wants_logprobs: bool = False
    wants_logits: bool = False

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise PromptError("the prompt is empty: give at least one token")
        if self.max_tokens < 1:
            raise PromptError(f"max_tokens is {self.max_tokens}: ask for at least 1")

    @property
    def flags(self) -> RowFlag:
        """What the last part is asked for."""
        flags = RowFlag.PICK
        if self.wants_logprobs:
            flags |= RowFlag.LOGPROB
        if self.wants_logits:
            flags |= RowFlag.LOGITS
        return flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token. ``logits`` has shape (vocabulary,)."""

    token_id: int
    logprob: float | None = None
    logits: npt.NDArray[np.float32] | None = None


def make_token(token_id: int, index: int, tensors: tuple[Array, ...], request: Request) -> Token:
    """The token of pick number ``index`` of a result's ``tensors``, with what was asked for; copies
    what lives in the frame."""
    logprob = logits = None
    for tensor in tensors[1:]:  # the first are the ids
        if tensor.ndim == 1 and request.wants_logprobs:
            logprob = float(tensor[index])
        elif tensor.ndim == 2 and request.wants_logits:
            logits = np.array(tensor[index], np.float32)
    return Token(token_id=token_id, logprob=logprob, logits=logits)


class Generation:
    """A running request. Iterating gives its tokens as they come, from any one thread.

    How long a token may take is the engine's to say: it has a deadline for every step, and
    ends its generations when it fails. ``is_engine_alive`` is asked every CHECK_S.
    """

    def __init__(
        self, request: Request, cancel: Callable[[], None], is_engine_alive: Callable[[], bool]
    ) -> None:
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.submitted_s = time.monotonic()
        self.token_times_s: list[float] = []
        self._cancel = cancel
        self._is_cancelled = False
        self._is_engine_alive = is_engine_alive
        self._error: PartwiseError | None = None
        self._events: queue.SimpleQueue[Token | FinishReason | PartwiseError] = queue.SimpleQueue()

    def put(self, event: Token | FinishReason | PartwiseError) -> None:
        """The engine's side: a token, the end, or why it failed."""
        if isinstance(event, Token):
            self.token_times_s.append(time.monotonic())
        self._events.put(event)

    def cancel(self) -> None:
        """Stop generating; iteration ends with FinishReason.CANCELLED."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._cancel()

    def __iter__(self) -> Iterator[Token]:
        while self.finish_reason is None:
            if self._error is not None:
                raise self._error
            event = self._next_event()
            if isinstance(event, PartwiseError):
                self._error = event
                continue
            if isinstance(event, FinishReason):
                self.finish_reason = event
                return
            yield event

    def _next_event(self) -> Token | FinishReason | PartwiseError:
        while True:
            is_alive = self._is_engine_alive()  # asked first: its last words are in the queue then
            try:
                return self._events.get(timeout=CHECK_S if is_alive else 0)
            except queue.Empty as exc:
                if not is_alive:
                    raise DeploymentClosed("the engine ended without a word: deploy again") from exc

    @property
    def first_token_s(self) -> float | None:
        """Seconds from submission to the first token."""
        return self.token_times_s[0] - self.submitted_s if self.token_times_s else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens after the first over the time they took."""
        times = self.token_times_s
        if len(times) < 2:
            return None
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9)


@dataclass(slots=True, eq=False)
class Sequence:
    """The scheduler's view of a running request.

    ``num_sent`` tokens are on their way through the parts or already computed; the tokens
    themselves are the prompt's, then the generated ones, of which the first ``num_prompt`` are
    computed as a prompt. ``num_asked`` picks were asked for.
    """

    number: int
    request: Request
    tokens: list[int]
    num_sent: int = 0
    num_in_flight: int = 0
    num_asked: int = 0
    is_finished: bool = False
    generated: list[int] = field(default_factory=list)
    num_prompt: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_prompt = len(self.tokens)

    @property
    def is_prefilling(self) -> bool:
        return self.num_sent < self.num_prompt

    def restart(self) -> None:
        """What was computed is lost, and nothing is in flight: all tokens are a prompt again."""
        assert not self.num_in_flight, "a pick may be under way"
        self.num_sent, self.num_prompt = 0, len(self.tokens)

    def accept(self, token_id: int) -> FinishReason | None:
        """Take the token that the last part picked; says whether it ends the sequence."""
        if token_id in self.request.stop_ids:
            return FinishReason.STOP
        self.tokens.append(token_id)
        self.generated.append(token_id)
        return FinishReason.LENGTH if len(self.generated) >= self.request.max_tokens else None
