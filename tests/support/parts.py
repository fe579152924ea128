"""A model deployed over part servers that are threads of the test's process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from partwise.distributor import Plan, balance_layers
from partwise.distributor.codecs import with_codec
from partwise.engine.assembly import Assembly, Deployment
from partwise.engine.coordinator import Coordinator
from partwise.engine.scheduler import Limits
from partwise.engine.sequence import Generation, Request, Token
from partwise.engine.takeover import NextPlan
from partwise.errors import RemoteError
from partwise.launch.listening import make_torch_runner
from partwise.model import Model, open_model
from partwise.part.runner import Runner, RunnerFactory, RunnerOptions
from partwise.part.server import PartServer
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array
from partwise.remote.memory import MemoryTransport
from partwise.remote.transport import Address, Transport

JOIN_S = 10.0


class Servers:
    """Part servers as threads. ``addresses`` by name."""

    def __init__(
        self, names: Sequence[str], transport: Transport, make_runner: RunnerFactory
    ) -> None:
        self.addresses: dict[str, Address] = {}
        self.transport = transport
        self._servers: list[PartServer] = []
        self._threads: list[threading.Thread] = []
        for name in names:
            listener = transport.listen(Address("127.0.0.1", 0), name)
            self.addresses[name] = listener.address
            server = PartServer(name, transport, listener, make_runner)
            thread = threading.Thread(target=server.run, name=name, daemon=True)
            thread.start()
            self._servers.append(server)
            self._threads.append(thread)

    def stop(self) -> None:
        """Let the servers end at once: a stranger at the door gives each a turn."""
        stranger = Hello(role="part", name="stranger", deployment="another")
        for server in self._servers:
            server.stop()
            with contextlib.suppress(RemoteError, OSError):
                self.transport.connect(self.addresses[server.name], stranger).close()

    def join(self) -> None:
        """Wait until they ended; fails after JOIN_S."""
        for thread in self._threads:
            thread.join(JOIN_S)
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        assert not alive, f"servers {alive} did not stop in {JOIN_S:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the parts of a test run: as `balance_layers` shares the layers among ``num_parts``, or
    by ``make_plan``, whose parts are on server0 and so on."""

    num_parts: int = 2
    make_plan: Callable[[Model], Plan] | None = None
    make_runner: RunnerFactory = make_torch_runner
    seed: int | None = None
    transport: Transport | None = None
    limits: Limits | None = None
    step_s: float = 20.0
    plan_version: int = 1
    precision: str = "fp32"
    codec: str = "fp32"
    exchange_s: float = 20.0

    def plan(self, model: Model) -> Plan:
        """The plan for ``model``."""
        if self.make_plan is not None:
            return self.make_plan(model)
        names = [f"server{i}" for i in range(self.num_parts)]
        plan = balance_layers(
            model, names, precision=self.precision, plan_version=self.plan_version
        )
        return with_codec(plan, self.codec)


class Parts:
    """A model in parts, ready to run requests. A context manager."""

    def __init__(self, path: Path, setting: Setting) -> None:
        self._setting = setting
        self.model = open_model(path)
        self.plan = setting.plan(self.model)
        names = [part.server for part in self.plan.parts]
        transport = setting.transport or MemoryTransport(setting.seed)
        self.servers = Servers(names, transport, setting.make_runner)
        try:
            self.coordinator = self._assemble(path, setting, transport)
        except BaseException:
            self.servers.stop()
            self.servers.join()
            raise

    def replan(self, plan: Plan, *, prepare_s: float = 20.0) -> None:
        """Go on under ``plan``."""
        target = NextPlan(
            plan=plan,
            model=self.model,
            addresses=self.servers.addresses,
            limits=self._setting.limits or Limits(max_in_flight=len(plan.stages)),
            prepare_s=prepare_s,
        )
        self.coordinator.replan(target)
        self.plan = plan

    def _assemble(self, path: Path, setting: Setting, transport: Transport) -> Coordinator:
        limits = setting.limits or Limits(max_in_flight=len(self.plan.stages))
        target = Deployment(
            name="test",
            plan=self.plan,
            model=self.model,
            model_path=str(path),
            addresses=self.servers.addresses,
            threads=1,
            on_progress=lambda done, total: None,
            explain=lambda server: "",
            exchange_s=setting.exchange_s,
        )
        return Coordinator(
            Assembly(target, transport),
            limits,
            explain=target.explain,
            step_s=setting.step_s,
        )

    def submit(
        self, prompt_ids: Sequence[int], max_tokens: int = 8, *, wants_logits: bool = False
    ) -> Generation:
        """Start generating after ``prompt_ids``."""
        return self.coordinator.submit(
            Request(prompt_ids=tuple(prompt_ids), max_tokens=max_tokens, wants_logits=wants_logits)
        )

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int = 8) -> list[list[Token]]:
        """All prompts at once; for each its tokens with their logits."""
        running = [self.submit(prompt, max_tokens, wants_logits=True) for prompt in prompts]
        return [list(generation) for generation in running]

    def close(self) -> None:
        self.coordinator.close()
        self.servers.stop()
        self.servers.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


Hook = Callable[[str, int, Callable[[], None]], None]
"""Called with the part, the number of its pass from 1, and `between_layers`."""


def ignore_pass(part: str, number: int, between_layers: Callable[[], None]) -> None:
    """A pass like any other."""


def counting_runner(on_pass: Hook = ignore_pass) -> RunnerFactory:
    """Runners that carry token ids through all parts and pick the next number."""

    def make(options: RunnerOptions) -> Runner:
        return CountingRunner(options, on_pass)

    return make


class CountingRunner:
    """Computes nothing: the pick after token t is t + 1, and 0 after the last of the vocabulary.
    ``released`` collects sequences."""

    weight_bytes = 0
    host_bytes = 0
    notes = ()

    def __init__(self, options: RunnerOptions, on_pass: Hook) -> None:
        stage = options.plan.stage_of(options.part)
        self._part = options.part
        self._is_last = stage == options.plan.stages[-1]
        self._width = options.model.hidden_size
        self._vocab_size = options.model.vocab_size
        self._on_pass = on_pass
        self._num_passes = 0
        self.released: list[int] = []

    def run(
        self, rows: Sequence[Row], inputs: Sequence[Array], between_layers: Callable[[], None]
    ) -> tuple[Array, ...]:
        """See `Runner.run`."""
        self._num_passes += 1
        self._on_pass(self._part, self._num_passes, between_layers)
        between_layers()
        ids = np.asarray(inputs[0]).reshape(len(inputs[0]), -1)[:, 0]
        if not self._is_last:
            return (np.repeat(ids.astype(np.float32)[:, None], self._width, axis=1),)
        ends = np.cumsum([row.num_tokens for row in rows]) - 1
        asks = [bool(row.flags & RowFlag.PICK) for row in rows]
        return ((ids[ends[asks]].astype(np.int64) + 1) % self._vocab_size,)

    def release(self, sequences: Sequence[int]) -> None:
        """See `Runner.release`."""
        self.released.extend(sequences)
