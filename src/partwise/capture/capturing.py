"""Capture a module: the first way that takes it gives its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partwise.capture.build import build_graph
from partwise.capture.graph import Graph
from partwise.capture.trace import Unsuitable, bind_examples, list_ways, refuse
from partwise.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch


def capture(module: torch.nn.Module, examples: Any) -> tuple[Graph, Mapping[str, torch.Tensor]]:
    """The graph of ``module`` and the tensors of its states, by name.

    ``examples`` are a tensor, a sequence of arguments, or arguments by name, as the module would
    be called with; the first axis of the tensors is the batch. They are computed a few times.

    Raises:
        UsageError: the module is in training mode, or the examples do not fit it.
        ModelError: it cannot be captured: the line of code, the reason, and what to do.
    """
    name = type(module).__name__
    if any(part.training for part in module.modules()):
        raise UsageError(
            f"{name} is in training mode, in which dropout and batch norms compute otherwise:"
            " call its eval() first"
        )
    call = bind_examples(module, examples)
    reasons = []
    for way, trace in list_ways():
        try:
            graph, tensors = build_graph(call, trace(call))
        except Unsuitable as exc:
            reasons.append((way, str(exc)))
        else:
            if not any(state.is_parameter for state in graph.states):
                raise ModelError(f"{name} has no parameters that it computes with: run it as it is")
            return graph, tensors
    raise refuse(module, reasons)
