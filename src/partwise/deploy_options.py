"""How a deployment runs, as users say it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from partwise.distributor import RunnerWish
from partwise.distributor.codecs import CODECS
from partwise.distributor.devices import CPU, check_device
from partwise.engine.coordinator import MAX_STEP_S, STEP_S
from partwise.engine.scheduler import PREFILL_CHUNK_TOKENS
from partwise.errors import UsageError
from partwise.remote.messages import MAX_THREADS

_LOG = logging.getLogger("partwise")


def _ignore_progress(done_bytes: int, total_bytes: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """How a deployment runs.

    ``threads`` a server (0: the processors of this machine, shared evenly among its servers;
    on other hosts each server decides). Local servers get no more than this machine has
    processors for, which ``on_notice(text)`` then says (by default to the log "partwise");
    deterministic ones get what is asked for. ``is_pinned`` gives each local server processors
    of its own. ``is_deterministic`` gives the same bits for every number of parts that hold their
    layers whole, and for the same members of a stage; the bits depend on the threads, so that 0
    then means 1 everywhere. ``max_in_flight`` microbatches (0: one a stage). ``step_timeout_s`` is
    what a step may take, and for how long members of a stage wait for each other. ``token_file``
    holds the cluster token of servers on other hosts. ``precision`` of the weights is fp32, bf16,
    int8 or int4, ``runner`` torch or onnx (None: the plan's; without a plan fp32, and the fastest
    that covers the model, or where ``is_deterministic`` torch). ``device`` is what servers of this
    machine compute on: cpu, or for torch cuda or cuda:N; others have their own.
    ``on_load(done_bytes, total_bytes)`` follows loading. What servers read of a PyTorch module is
    saved in ``module_folder``, which servers of other hosts see at the same path (None: in one that
    goes away with the deployment).

    Raises:
        UsageError: a number below what it means anything from, or beyond what a server takes; a
            codec or device that is not known, or a codec that changes the bits that are to be the
            same.
    """

    threads: int = 0
    is_pinned: bool = False
    is_deterministic: bool = False
    codec: str | None = None
    max_in_flight: int = 0
    chunk_tokens: int = PREFILL_CHUNK_TOKENS
    step_timeout_s: float = STEP_S
    token_file: Path | None = None
    precision: str | None = None
    runner: str | None = None
    device: str = CPU
    on_load: Callable[[int, int], None] = field(default=_ignore_progress)
    on_notice: Callable[[str], None] = field(default=_LOG.warning)
    module_folder: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("max_in_flight", 0), ("chunk_tokens", 1)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(
                    f"{name} is {value}, it must be at least {least}: give {least} or more"
                )
        if self.threads > MAX_THREADS:
            raise UsageError(
                f"threads is {self.threads}, it must be at most {MAX_THREADS}: give fewer"
            )
        if not 0 < self.step_timeout_s <= MAX_STEP_S:
            raise UsageError(
                f"step_timeout_s is {self.step_timeout_s:g}, it must be above 0 and at most"
                f" {MAX_STEP_S:g}, a day: give seconds"
            )
        check_device(self.device)
        if self.codec is not None and self.codec not in CODECS:
            raise UsageError(f"codec is {self.codec!r}: give one of {', '.join(CODECS)}")
        if self.is_deterministic and self.codec not in (None, "fp32"):
            raise UsageError(
                f"the same bits need fp32 on every link, codec is {self.codec!r}: leave one out"
            )

    @property
    def wish(self) -> RunnerWish:
        """What is asked of the runner."""
        return RunnerWish(
            precision=self.precision,
            runner=self.runner,
            is_deterministic=self.is_deterministic,
            device=self.device,
        )

    def choose_threads(self, default: int) -> int:
        """Threads a server: those asked for, else 1 where bits must not depend on them, else
        ``default``."""
        return self.threads or (1 if self.is_deterministic else default)


DEFAULTS = DeployOptions()
"""What is not said."""
