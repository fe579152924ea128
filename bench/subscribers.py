"""Parts that take new plans: a process each, joined to this one over TCP on loopback.

Each does with a plan what a server does before it loads weights: decodes and verifies it, opens a
directory of it and compiles its routes.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

from partwise.distributor.plan import Plan
from partwise.distributor.verify import verify_plan
from partwise.errors import RemoteError
from partwise.model import Model
from partwise.registry.directory import Directory
from partwise.registry.publisher import Answer, Publisher
from partwise.registry.registry import Registry
from partwise.registry.routes import compile_routes
from partwise.registry.subscriber import Subscriber
from partwise.remote.authenticate import Hello, new_token
from partwise.remote.frame import Frame
from partwise.remote.link import Link
from partwise.remote.messages import SwitchPlan, decode_message, message_frame
from partwise.remote.poller import Poller
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address

ANSWER_S = 30.0


class Subscribers:
    """A process for each part of ``plan``, which is in force, and a publisher for all of them. A
    context manager: leaving it ends them."""

    def __init__(self, plan: Plan, model: Model) -> None:
        self._links: dict[str, Link] = {}
        self._pids: list[int] = []
        self._answered_s: dict[str, float] = {}
        self._poller = Poller(self._on_frame, self._on_lost, is_pressed=False)
        self._transport = TcpTransport(new_token())
        self._listener = self._transport.listen(Address("127.0.0.1", 0), "publisher")
        gc.freeze()  # or each process copies all memory when it collects garbage
        try:
            for part in plan.parts:
                self._start(part.name, plan, model)
        except BaseException:
            self.close()
            raise
        names = list(self._links)
        self._publisher = Publisher(names, self._send, plan.plan_version)
        self._last_step = 0

    def change(self, plan: Plan) -> tuple[list[float], list[float]]:
        """Everyone prepares ``plan`` and then switches to it: for each the seconds from the start
        of a round to its answer, in both rounds."""
        prepared = self._time(lambda: self._publisher.publish(plan, ANSWER_S))
        self._last_step += 1
        switched = self._time(lambda: self._publisher.switch(self._last_step, ANSWER_S))
        self._publisher.finish()
        return prepared, switched

    def _time(self, begin: Callable[[], None]) -> list[float]:
        self._answered_s.clear()
        start_s = time.perf_counter()
        begin()
        self._publisher.wait(self._poller.poll)
        return [answered_s - start_s for answered_s in self._answered_s.values()]

    def _start(self, name: str, plan: Plan, model: Model) -> None:
        pid = os.fork()
        if not pid:
            _serve(self._transport, self._listener.address, name, plan, model)
        self._pids.append(pid)
        stop_s = time.monotonic() + ANSWER_S
        while name not in self._links:
            for hello, channel in self._listener.accepted():
                self._links[hello.name] = Link(channel, hello.name)
                self._poller.add_link(self._links[hello.name])
            if time.monotonic() > stop_s:
                raise TimeoutError(f"{name} did not connect in {ANSWER_S:g} s")
            time.sleep(1e-3)

    def _send(self, name: str, frame: Frame) -> None:
        self._links[name].send(frame)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        message = decode_message(frame)
        assert isinstance(message, Answer)
        self._answered_s[link.name] = time.perf_counter()
        self._publisher.take(link.name, message)

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        raise error

    def close(self) -> None:
        """End all processes."""
        gc.unfreeze()
        self._listener.close()
        self._poller.close()  # they end when their links do
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pids.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Part:
    """One part in its own process."""

    def __init__(self, name: str, link: Link, plan: Plan, model: Model) -> None:
        self._name, self._model = name, model
        registry = Registry((Directory(plan=plan, model=model),))
        self._side = Subscriber(registry, self._prepare, lambda plan_version: None)
        self._poller = Poller(self._on_frame, self._on_lost, is_pressed=False)
        self._poller.add_link(link)
        self._is_over = False

    def run(self) -> None:
        while not self._is_over:
            self._poller.poll(1.0)

    def _prepare(self, plan: Plan) -> Directory:
        verify_plan(plan, self._model)
        compile_routes(plan, self._model, self._name)
        return Directory(plan=plan, model=self._model)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        message = decode_message(frame)
        answer = self._side.handle(message)  # type: ignore[arg-type]
        if answer is not None:
            link.send(message_frame(answer, frame.plan_version))
        if isinstance(message, SwitchPlan):
            self._side.versions.begin(message.at_step)  # as if the step came

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        self._is_over = True


def _serve(transport: TcpTransport, address: Address, name: str, plan: Plan, model: Model) -> None:
    """All that the new process does; never returns."""
    code = 1
    try:
        hello = Hello(role="part", name=name, deployment="bench")
        _Part(name, Link(transport.connect(address, hello), "publisher"), plan, model).run()
        code = 0
    except BaseException:  # noqa: BLE001 - nothing above it is this process's
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)
