"""Calls a captured module in parts: inputs go out, parts push among themselves, results come back.

One call at a time is computed; callers of other threads wait for their turn.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partwise.capture.arguments import read_argument
from partwise.capture.graph import Graph
from partwise.capture.layouts import COORDINATOR
from partwise.capture.parcels import parcel_frame
from partwise.capture.passes import Pass
from partwise.engine.module.assembly import ModuleAssembly, ModulePart
from partwise.errors import DeploymentClosed, FrameError, PartwiseError, UsageError
from partwise.remote.frame import Frame
from partwise.remote.messages import CountPushed, Pushed

if TYPE_CHECKING:
    import torch


class ModuleCoordinator:
    """Computes passes of a captured module, whose parts are ready."""

    def __init__(self, graph: Graph, assembly: ModuleAssembly, *, step_s: float) -> None:
        """A pass that is not over in ``step_s`` ends the deployment."""
        self._graph = graph
        self._assembly = assembly
        self._schedule = assembly.target.schedule
        self._step_s = step_s
        self._step = 0
        self._lock = threading.Lock()
        self._end: str | None = None
        self._current: Pass | None = None
        self._awaited: set[tuple[str, int]] = set()
        self._pushed: dict[tuple[str, str], Pushed] = {}
        self._num_counted = 0
        self._parcels = {
            (parcel.source, parcel.phase): parcel
            for phase in self._schedule.phases[COORDINATOR]
            for parcel in phase.received
        }
        assembly.on_tensors = self._on_tensors
        assembly.on_pushed = self._on_pushed

    def call(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """The results for these inputs, as the module gives them.

        Raises:
            UsageError: inputs that the module was not captured for.
            PartwiseError: a part failed, or did not answer in time: the deployment is over.
            DeploymentClosed: it was over before.
        """
        batch = self._check(inputs)
        with self._lock:
            if self._end is not None:
                raise DeploymentClosed(f"the deployment is over: {self._end}; deploy again")
            try:
                return self._compute(inputs, batch)
            except BaseException as exc:
                self._end = str(exc) if isinstance(exc, PartwiseError) else repr(exc)
                raise
            finally:
                self._current = None

    def _compute(self, inputs: Mapping[str, torch.Tensor], batch: int) -> Any:
        self._step += 1
        current = self._current = Pass(self._schedule, COORDINATOR, batch)
        current.own |= inputs
        self._awaited = set(self._parcels)
        entries = {entry.part.name: entry for entry in self._assembly.parts}
        version = self._schedule.plan_version
        for parcel in self._schedule.list_parcels(COORDINATOR):
            tensors = current.pack(parcel)
            frame = parcel_frame(parcel, tensors, step=self._step, batch=batch, version=version)
            self._assembly.send(entries[parcel.target], frame)
        owed = "send its results of step " + str(self._step)
        self._assembly.wait(
            lambda entry: all(source != entry.part.name for source, _ in self._awaited),
            self._step_s,
            owed,
        )
        return read_argument(self._graph.output, {"node": current.find}, batch)

    def _on_tensors(self, entry: ModulePart, frame: Frame) -> None:
        key = entry.part.name, frame.layer
        is_current = frame.step == self._step and frame.plan_version == self._schedule.plan_version
        if not is_current or key not in self._awaited or self._current is None:
            raise FrameError(f"{entry.part.name} sent results of step {frame.step} unasked")
        self._awaited.discard(key)
        self._current.open(self._parcels[key], frame.tensors)  # type: ignore[arg-type]

    def _check(self, inputs: Mapping[str, torch.Tensor]) -> int:
        """The rows of a call, whose inputs are as the module was captured for."""
        batch = self._graph.fixed_batch
        for entry in self._graph.inputs:
            shape = inputs[entry.name].shape
            for dim, size in zip(entry.spec.shape, shape, strict=False):
                if dim.per_batch and batch is None:
                    batch = (size - dim.constant) // dim.per_batch
        if batch is None or batch < 1:
            raise UsageError(f"the inputs have {batch or 0} rows: give at least 1")
        for entry in self._graph.inputs:
            tensor, sizes = inputs[entry.name], entry.spec.sizes(batch)
            dtype = str(tensor.dtype).removeprefix("torch.")
            if tuple(tensor.shape) != sizes or dtype != entry.spec.dtype:
                raise UsageError(
                    f"the input {entry.name!r} is {dtype} {tuple(tensor.shape)}, in {batch} rows"
                    f" the module was captured for {entry.spec.dtype} {sizes}: capture it with"
                    " such an example"
                )
        return batch

    def count_pushed(self) -> dict[tuple[str, str], Pushed]:
        """What each (source, target) has pushed since the parts were assigned: measured where it
        was sent, without what the coordinator sends.

        Raises:
            PartwiseError: a part does not answer.
        """
        with self._lock:
            self._pushed, self._num_counted = {}, 0
            for entry in self._assembly.parts:
                self._assembly.tell(entry, CountPushed())
            num_parts = len(self._assembly.parts)
            self._assembly.wait(
                lambda _: self._num_counted == num_parts, self._step_s, "count what it pushed"
            )
            return dict(self._pushed)

    def _on_pushed(self, entry: ModulePart, message: Pushed) -> None:
        if message.target:
            self._pushed[entry.part.name, message.target] = message
        else:
            self._num_counted += 1

    def close(self) -> None:
        """End the links to all parts."""
        with self._lock:
            self._end = self._end or "it was closed"
            self._assembly.close()
