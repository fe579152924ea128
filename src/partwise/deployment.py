"""The Python interface: deploy a model over servers, generate with it.

with partwise.deploy("models/SmolLM2-135M-Instruct", parts=3) as net:
    for piece in net.generate("What is the capital of France?"):
        print(piece, end="")
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from partwise.answer import Answer
from partwise.deploy_options import DEFAULTS, DeployOptions
from partwise.distributor import Plan, measure_holding
from partwise.distributor.codecs import with_codec
from partwise.distributor.devices import CPU
from partwise.distributor.speed import fit_threads
from partwise.engine.assembly import Assembly
from partwise.engine.assembly import Deployment as Target
from partwise.engine.coordinator import MAX_STEP_S, Coordinator
from partwise.engine.prepared import Prepared, prepare
from partwise.engine.reports import PartReport, report_parts
from partwise.engine.scheduler import Limits
from partwise.engine.sequence import Generation, Request
from partwise.engine.takeover import NextPlan
from partwise.errors import UsageError
from partwise.launch.local import LocalServers, share_cpus
from partwise.remote.authenticate import new_token, read_token
from partwise.remote.messages import Stats
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address

if TYPE_CHECKING:
    import torch

    from partwise.module_net import ModuleNet

DEFAULT_MAX_TOKENS = 256
REPLAN_S = 600.0
"""How long servers may take to prepare another plan, if nothing else is said."""


class Net:
    """A model deployed over servers. A context manager: leaving it ends what it started.

    Methods may be called from any thread; several generations run at once.
    """

    def __init__(
        self, prepared: Prepared, coordinator: Coordinator, target: Target, options: DeployOptions
    ) -> None:
        self.model = prepared.model
        self.plan = target.plan
        self.text = prepared.text
        self._prepared = prepared
        self._coordinator = coordinator
        self._addresses = target.addresses
        self._options = options
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

    def replan(self, plan: Plan, *, timeout_s: float = REPLAN_S) -> None:
        """Go on under ``plan``, of the same model and precision over the same servers, and wait
        until it is in force. It takes effect at one step on all parts; generations under way lose
        nothing. They wait while their tokens so far are computed anew, as prompts are.

        Each server loads its new part beside the one that it serves, for which there must be room
        in its memory; they may take ``timeout_s``. Counters begin anew.

        Raises:
            PlanError: the plan cannot follow the one in force, or a server cannot run it, with the
                part's name and the reason: all goes on as before.
            DeadlineExceeded: a server was late, as before.
            UsageError: a timeout that is none.
            PartFailed, RemoteError: the deployment failed meanwhile.
        """
        if not 0 < timeout_s <= MAX_STEP_S:
            raise UsageError(
                f"timeout_s is {timeout_s:g}, it must be above 0 and at most {MAX_STEP_S:g}, a day:"
                " give seconds"
            )
        prepared = _apply(self._prepared.follow(plan), self._options)
        following = NextPlan(
            plan=prepared.plan,
            model=self.model,
            addresses=self._addresses,
            limits=_limit(prepared.plan, self._options),
            prepare_s=timeout_s,
        )
        self._coordinator.replan(following)
        self._prepared, self.plan = prepared, prepared.plan

    def counters(self) -> list[Stats]:
        """Every part's counters since its plan is in force, in stage order."""
        return self._coordinator.stats()

    def reports(self, before: Sequence[Stats] | None = None) -> list[PartReport]:
        """What every part did, since ``before`` (an earlier `counters` of the same plan), or since
        its plan is in force."""
        return report_parts(self.plan, self.model, self.counters(), before)

    @property
    def memory(self) -> list[tuple[str, int, int, int]]:
        """For each part: name, weight bytes, resident bytes after loading, and those of its
        server before."""
        return [
            (e.part.name, e.loaded.weight_bytes, e.loaded.resident_bytes,
             e.loaded.empty_resident_bytes)
            for e in self._coordinator.parts if e.loaded is not None
        ]  # fmt: skip

    @property
    def notes(self) -> list[str]:
        """What parts did otherwise than was to be expected when they were loaded."""
        return [note for e in self._coordinator.parts if e.loaded for note in e.loaded.notes]

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


@overload
def deploy(
    model: str | Path,
    *,
    parts: int | None = None,
    servers: Sequence[str] = (),
    plan: Plan | None = None,
    version: int | None = None,
    options: DeployOptions = DEFAULTS,
) -> Net: ...


@overload
def deploy(
    model: torch.nn.Module,
    example_inputs: Any,
    *,
    parts: int | None = None,
    servers: Sequence[str] = (),
    plan: Plan | None = None,
    strategy: str | tuple[str, Mapping[str, Any]] | None = None,
    options: DeployOptions = DEFAULTS,
) -> ModuleNet: ...


def deploy(
    model: str | Path | torch.nn.Module,
    example_inputs: Any = None,
    *,
    parts: int | None = None,
    servers: Sequence[str] = (),
    plan: Plan | None = None,
    version: int | None = None,
    strategy: str | tuple[str, Mapping[str, Any]] | None = None,
    options: DeployOptions = DEFAULTS,
) -> Net | ModuleNet:
    """Deploy the model in the directory ``model``, or a PyTorch module, and wait until every part
    is ready. What is deployed and where is said by keyword, all else stands in ``options``.

    ``parts`` servers of this machine (default 1), or ``servers`` ("HOST:PORT") that listen
    elsewhere and see the model at the same path. A ``plan`` says which part goes to which
    server: an address among ``servers``, or "local-0" and so on; without one layers are
    balanced by the bytes that a token reads, plus a constant for each block. ``version`` is that of
    its parameters, as `partwise compress` makes them (default: the plan's, or the model's files).

    A module, in eval mode, is called with ``example_inputs`` (a tensor, a sequence of arguments,
    or arguments by name; the first axis of tensors is the batch) to be captured. A ``strategy`` of
    `partwise plan`, by its name or as (name, options), makes its plan. ``servers`` of modules run
    with ``--runner module``.

    Raises:
        UsageError: the numbers of parts, servers and parts of the plan differ, or the servers
            cannot all reach each other, or options that mean nothing together.
        ModelError, PlanError: the model cannot be deployed so; of a module that cannot be
            captured: the line of code, the reason, and what to do.
        LaunchError, RemoteError, PartFailed: a server did not get ready.
    """
    if not isinstance(model, str | Path):
        if version is not None:
            raise UsageError("a module has the parameters that it has: leave version out")
        wish = {"parts": parts, "servers": servers, "plan": plan, "strategy": strategy}
        return _deploy_module(model, example_inputs, wish, options)
    if example_inputs is not None or strategy is not None:
        raise UsageError(
            "example_inputs and a strategy are for PyTorch modules: leave them out for a"
            " directory, and give a plan"
        )
    prepared = prepare(
        model, parts=parts, servers=servers, plan=plan, version=version, wish=options.wish
    )
    return start(prepared, options)


def _deploy_module(
    module: torch.nn.Module, examples: Any, wish: Mapping[str, Any], options: DeployOptions
) -> ModuleNet:
    from partwise.module_net import Running, deploy_module
    from partwise.module_plan import ModuleWish

    for name in ("precision", "runner", "codec", "device"):
        if (value := getattr(options, name)) not in (None, "fp32", "torch", CPU):
            raise UsageError(f"modules are computed by torch in fp32 on CPUs, {name} is {value!r}")
    running = Running(
        token_file=options.token_file,
        listening_threads=options.choose_threads(0),
        choose_threads=lambda num_parts: _choose_local_threads(num_parts, options),
        is_pinned=options.is_pinned,
        step_s=options.step_timeout_s,
        folder=options.module_folder,
    )
    return deploy_module(module, examples, ModuleWish(**wish), running)


def _apply(prepared: Prepared, options: DeployOptions) -> Prepared:
    """What is prepared, with what ``options`` say of its plan."""
    codec = "fp32" if options.is_deterministic else options.codec
    if codec is None:
        return prepared
    return replace(prepared, plan=with_codec(prepared.plan, codec))


def start(prepared: Prepared, options: DeployOptions) -> Net:
    """Make every part of what is prepared ready."""
    prepared = _apply(prepared, options)
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
        device=options.device,
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
    coordinator = Coordinator(
        assembly,
        _limit(target.plan, options),
        explain=target.explain,
        step_s=options.step_timeout_s,
    )
    return Net(prepared, coordinator, target, options)


def _limit(plan: Plan, options: DeployOptions) -> Limits:
    return Limits(
        max_in_flight=options.max_in_flight or len(plan.stages),
        chunk_tokens=options.chunk_tokens,
        is_deterministic=options.is_deterministic,
    )
