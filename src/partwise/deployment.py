"""The Python interface: deploy a model over servers, generate with it.

with partwise.deploy("models/SmolLM2-135M-Instruct", parts=3) as net:
    for piece in net.generate("What is the capital of France?"):
        print(piece, end="")
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from partwise.distributor import Plan, RunnerWish, measure_holding
from partwise.distributor.codecs import CODECS, with_codec
from partwise.distributor.speed import fit_threads
from partwise.engine.assembly import Assembly
from partwise.engine.assembly import Deployment as Target
from partwise.engine.coordinator import MAX_STEP_S, STEP_S, Coordinator
from partwise.engine.prepared import Prepared, prepare
from partwise.engine.reports import PartReport, report_parts
from partwise.engine.scheduler import PREFILL_CHUNK_TOKENS, Limits
from partwise.engine.sequence import FinishReason, Generation, Request
from partwise.engine.text import Text
from partwise.errors import UsageError
from partwise.launch.local import LocalServers, share_cpus
from partwise.remote.authenticate import new_token, read_token
from partwise.remote.messages import MAX_THREADS, Stats
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address

DEFAULT_MAX_TOKENS = 256


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
    holds the cluster token of servers on other hosts. ``precision`` of the weights is fp32, int8 or
    int4, ``runner`` torch or onnx (None: the plan's; without a plan fp32, and the fastest that
    covers the model, or where ``is_deterministic`` torch).
    ``on_load(done_bytes, total_bytes)`` follows loading.

    Raises:
        UsageError: a number below what it means anything from, or beyond what a server takes; a
            codec that is not known, or that changes the bits that are to be the same.
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
    on_load: Callable[[int, int], None] = field(default=_ignore_progress)
    on_notice: Callable[[str], None] = field(default=_LOG.warning)

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
            precision=self.precision, runner=self.runner, is_deterministic=self.is_deterministic
        )

    def choose_threads(self, default: int) -> int:
        """Threads a server: those asked for, else 1 where bits must not depend on them, else
        ``default``."""
        return self.threads or (1 if self.is_deterministic else default)


class Answer:
    """A running generation as text. Iterating gives its pieces as they come, and leaving the
    loop before the end cancels it.

    ``token_ids`` grow as it runs; ``finish_reason`` is set at its end.
    """

    def __init__(self, generation: Generation, text: Text) -> None:
        self.token_ids: list[int] = []
        self.generation = generation
        self._text = text

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._text.stream(self._ids())
        finally:
            if self.finish_reason is None:  # nobody listens any more
                self.cancel()

    def _ids(self) -> Iterator[int]:
        for token in self.generation:
            self.token_ids.append(token.token_id)
            yield token.token_id

    def cancel(self) -> None:
        """Stop generating."""
        self.generation.cancel()

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.decode(self.token_ids)

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt has."""
        return len(self.generation.request.prompt_ids)

    @property
    def max_tokens(self) -> int:
        """How many tokens it may have: fewer than were asked for where the context ends."""
        return self.generation.request.max_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs."""
        return self.generation.finish_reason


class Net:
    """A model deployed over servers. A context manager: leaving it ends what it started.

    Methods may be called from any thread; several generations run at once.
    """

    def __init__(self, prepared: Prepared, coordinator: Coordinator, assembly: Assembly) -> None:
        self.model = prepared.model
        self.plan = prepared.plan
        self.text = prepared.text
        self._prepared = prepared
        self._coordinator = coordinator
        self._assembly = assembly
        self._local: LocalServers | None = None

    def generate(
        self, prompt: str, *, max_tokens: int = DEFAULT_MAX_TOKENS, chat: bool | None = None
    ) -> Answer:
        """Answer ``prompt``: as a chat message (the default if the model has a chat
        template), or as text to go on from. ``max_tokens`` is cut to what the prompt leaves of
        the model's context; the answer's own say so.

        Raises:
            PromptError: an empty prompt, or one that does not fit the model's context.
        """
        request = self._prepared.request(prompt, max_tokens=max_tokens, chat=chat)
        return Answer(self.submit(request), self.text)

    def submit(self, request: Request) -> Generation:
        """Run a request of token ids.

        Raises:
            PromptError: prompt and ``max_tokens`` exceed the context, or an id is not in the
                vocabulary.
        """
        self._prepared.check(request)
        return self._coordinator.submit(request)

    def counters(self) -> list[Stats]:
        """Every part's counters since it was deployed, in stage order."""
        return self._coordinator.stats()

    def reports(self, before: Sequence[Stats] | None = None) -> list[PartReport]:
        """What every part did, since ``before`` (an earlier `counters`) or since it started."""
        return report_parts(self.plan, self.model, self.counters(), before)

    @property
    def memory(self) -> list[tuple[str, int, int, int]]:
        """For each part: name, weight bytes, resident bytes after loading, and those of its
        server before."""
        return [
            (e.part.name, e.loaded.weight_bytes, e.loaded.resident_bytes,
             e.loaded.empty_resident_bytes)
            for e in self._assembly.parts if e.loaded is not None
        ]  # fmt: skip

    @property
    def notes(self) -> list[str]:
        """What parts did otherwise than was to be expected when they were loaded."""
        return [note for e in self._assembly.parts if e.loaded for note in e.loaded.notes]

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the servers of this machine that the deployment started, by name."""
        return self._local.pids if self._local is not None else {}

    def close(self) -> None:
        """End every generation and every server that the deployment started."""
        try:
            self._coordinator.close()
        finally:
            if self._local is not None:
                self._local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def deploy(
    model: str | Path,
    *,
    parts: int | None = None,
    servers: Sequence[str] = (),
    plan: Plan | None = None,
    version: int | None = None,
    options: DeployOptions = DeployOptions(),
) -> Net:
    """Deploy the model in the directory ``model`` and wait until every part is ready.

    ``parts`` servers of this machine (default 1), or ``servers`` ("HOST:PORT") that listen
    elsewhere and see the model at the same path. A ``plan`` says which part goes to which
    server: an address among ``servers``, or "local-0" and so on; without one layers are
    balanced by the bytes that a token reads, plus a constant for each block. ``version`` is that of
    its parameters, as `partwise compress` makes them (default: the plan's, or the model's files).

    Raises:
        UsageError: the numbers of parts, servers and parts of the plan differ, or the servers
            cannot all reach each other.
        ModelError, PlanError: the model cannot be deployed so.
        LaunchError, RemoteError, PartFailed: a server did not get ready.
    """
    prepared = prepare(
        model, parts=parts, servers=servers, plan=plan, version=version, wish=options.wish
    )
    return start(prepared, options)


def start(prepared: Prepared, options: DeployOptions) -> Net:
    """Make every part of what is prepared ready."""
    codec = "fp32" if options.is_deterministic else options.codec
    if codec is not None:
        prepared = replace(prepared, plan=with_codec(prepared.plan, codec))
    if prepared.addresses:
        return _start_listening(prepared, options)
    return _start_local(prepared, options)


def _start_listening(prepared: Prepared, options: DeployOptions) -> Net:
    if options.token_file is None:
        raise UsageError("--servers needs --token-file, the token that the servers were given")
    transport = TcpTransport(read_token(options.token_file))
    # Where nobody asks for a number, each server decides.
    threads = options.choose_threads(0)
    target = _target(prepared, prepared.addresses, threads, options)
    return _assemble(prepared, target, transport, options)


def _start_local(prepared: Prepared, options: DeployOptions) -> Net:
    token = new_token()
    plan = prepared.plan
    threads = _choose_local_threads(len(plan.parts), options)
    cpus: Sequence[Sequence[int]] = [()] * len(plan.parts)
    if options.is_pinned:
        cpus = share_cpus(len(plan.parts), threads)
    local = LocalServers(
        prepared.model.architecture,
        token,
        num_threads=threads * len(plan.parts),
        runners=sorted({part.runner for part in plan.parts}),
    )
    try:
        addresses = local.start([part.server for part in plan.parts], cpus)
        target = _target(prepared, addresses, threads, options, local.explain)
        net = _assemble(prepared, target, TcpTransport(token), options)
    except BaseException:
        local.close()
        raise
    net._local = local
    return net


def _choose_local_threads(num_servers: int, options: DeployOptions) -> int:
    """Threads for each server of this machine. With more of them than processors every product
    waits for whoever has none: up to half as fast as with fewer (decision 0010)."""
    cores = _num_processors()
    threads = options.choose_threads(max(1, cores // num_servers))
    fitting = fit_threads(threads, threads * num_servers, cores)
    if fitting == threads or options.is_deterministic:
        return threads
    options.on_notice(
        f"{num_servers} servers of this machine compute with {fitting} instead of {threads}"
        f" threads each: more than its {cores} processors in all would be slower"
    )
    return fitting


def _num_processors() -> int:
    return len(os.sched_getaffinity(0))


def _explain_nothing(server: str) -> str:
    """Servers on other hosts keep their last words to themselves."""
    return ""


def _target(
    prepared: Prepared,
    addresses: dict[str, Address],
    threads: int,
    options: DeployOptions,
    explain: Callable[[str], str] = _explain_nothing,
) -> Target:
    plan, model = prepared.plan, prepared.model
    total_bytes = sum(measure_holding(plan, model, p.name).weight_bytes for p in plan.parts)
    return Target(
        name=secrets.token_hex(8),
        plan=plan,
        model=model,
        model_path=str(prepared.path),
        addresses=addresses,
        threads=threads,
        # The parts that have not begun would be missing in the total that is reported.
        on_progress=lambda done_bytes, _: options.on_load(done_bytes, total_bytes),
        explain=explain,
        exchange_s=options.step_timeout_s,
    )


def _assemble(
    prepared: Prepared, target: Target, transport: TcpTransport, options: DeployOptions
) -> Net:
    assembly = Assembly(target, transport)
    limits = Limits(
        max_in_flight=options.max_in_flight or len(target.plan.stages),
        chunk_tokens=options.chunk_tokens,
        is_deterministic=options.is_deterministic,
    )
    coordinator = Coordinator(
        assembly,
        limits,
        plan_version=target.plan.plan_version,
        explain=target.explain,
        step_s=options.step_timeout_s,
    )
    return Net(prepared, coordinator, assembly)
