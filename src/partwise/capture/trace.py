"""A module as a torch graph: by symbolic tracing, or where that fails by `torch.export`.

Symbolic tracing keeps layers whole (leaves), so that parts call what the module calls. It cannot
follow code that looks at values; export can where what it looks at are sizes.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partwise.capture.leaves import is_leaf
from partwise.capture.lines import find_line, find_raised
from partwise.capture.table import IN_PLACE
from partwise.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch


class Unsuitable(Exception):
    """One way of capturing cannot take the module: ``str`` says the line and the reason."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A torch graph whose placeholders are the inputs, by name, or tensors of the module.

    ``states`` are the tensors of placeholders and of attributes by the name of their node,
    ``names`` what the module calls them; ``output`` is the result: fx nodes in tuples, lists and
    dicts. ``root`` holds the modules that are called.
    """

    root: torch.nn.Module
    graph: torch.fx.Graph
    inputs: tuple[str, ...]
    states: Mapping[str, torch.Tensor]
    names: Mapping[str, str]
    output: Any


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of a call by name: ``tensors``, and ``others`` that stay what they are."""

    tensors: Mapping[str, torch.Tensor]
    others: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Call(Arguments):
    """A call of ``module`` with examples."""

    module: torch.nn.Module


def bind_examples(module: torch.nn.Module, examples: Any) -> Call:
    """The call that ``examples`` mean: a tensor, a sequence of arguments, or arguments by name.

    Raises:
        UsageError: they do not fit the module's `forward`, or none is a tensor.
    """
    import torch

    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    if not isinstance(examples, Sequence | Mapping) or isinstance(examples, str):
        raise UsageError(
            f"example_inputs are {examples!r}: give a tensor, a sequence of the arguments that"
            f" {type(module).__name__} is called with, or arguments by name"
        )
    name, signature = type(module).__name__, inspect.signature(module.forward)
    if isinstance(examples, Mapping):
        found = bind_call(name, signature, (), examples)
    else:
        found = bind_call(name, signature, examples, {})
    return Call(module=module, tensors=found.tensors, others=found.others)


def bind_call(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Arguments:
    """The arguments of the module ``name`` whose `forward` has this ``signature``.

    Raises:
        UsageError: they do not fit, or none is a tensor.
    """
    import torch

    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as exc:
        raise UsageError(
            f"the inputs do not fit {name}.forward{signature}: {exc}; give what you would call it"
            " with"
        ) from exc
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unnamed = [n for n in bound.arguments if signature.parameters[n].kind in variadic]
    bound.apply_defaults()
    given = {
        key: value
        for key, value in bound.arguments.items()
        if signature.parameters[key].kind not in variadic
    }
    tensors = {n: v.detach() for n, v in given.items() if isinstance(v, torch.Tensor)}
    others = {key: value for key, value in given.items() if key not in tensors}
    hidden = [key for key, value in others.items() if _holds_tensor(value)]
    if unnamed or hidden:
        raise UsageError(
            f"{name} gets tensors in {(unnamed + hidden)[0]!r}, which is no tensor itself: give it"
            " a forward that takes each by a name of its own"
        )
    if not tensors:
        raise UsageError(f"the inputs of {name} hold no tensor: give at least 1")
    return Arguments(tensors=tensors, others=others)


def _holds_tensor(value: Any) -> bool:
    import torch

    leaves = torch.utils._pytree.tree_leaves(value)
    return any(isinstance(leaf, torch.Tensor) for leaf in leaves)


def list_ways() -> tuple[tuple[str, Callable[[Call], Traced]], ...]:
    """The ways of capturing by name, the one to try first first."""
    return ("torch.fx", trace_symbolically), ("torch.export", export)


def trace_symbolically(call: Call) -> Traced:
    """The graph by torch.fx, whose leaves are the layers of the table.

    Raises:
        Unsuitable: the module does what cannot be traced.
    """
    import torch
    from torch.fx._symbolic_trace import _assert_is_none

    tracer = _make_tracer()
    root = copy.copy(call.module)  # what tracing notes on it is not the user's
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tracer.trace(root, concrete_args=dict(call.others))
    except Exception as exc:  # whatever the user's code raises when it is traced
        raise Unsuitable(f"{find_raised(exc)}: {_first_line(exc)}") from exc
    for node in reversed(list(graph.nodes)):
        if node.target in (_assert_is_none, torch._assert):
            graph.erase_node(node)
    _erase_unused(graph, keep=set(call.tensors))
    placeholders = tuple(node.name for node in graph.nodes if node.op == "placeholder")
    by_target = {node.target: node.name for node in graph.nodes if node.op == "placeholder"}
    missing = [name for name in call.tensors if name not in by_target]
    if missing or len(placeholders) != len(call.tensors):
        raise Unsuitable(f"its arguments {', '.join(placeholders)} are not tensors alone")
    states, names = {}, {}
    for node in graph.nodes:
        if node.op == "get_attr":
            states[node.name] = _find_attribute(root, node.target)
            names[node.name] = node.target
    return Traced(
        root=root,
        graph=graph,
        inputs=tuple(by_target[name] for name in call.tensors),
        states=states,
        names=names,
        output=_find_output(graph),
    )


def _make_tracer() -> torch.fx.Tracer:
    """A tracer whose leaves are the table's, and to which ``x += y`` is a change of x: torch's own
    takes it for ``x = x + y``, which whoever shares the memory of x does not see."""
    import operator

    import torch

    class Changeable(torch.fx.Proxy):
        """A traced value that can be changed in place."""

    def make_operator(name: str) -> Callable[[Changeable, Any], torch.fx.Proxy]:
        function = getattr(operator, name)

        def change(self: Changeable, other: Any) -> torch.fx.Proxy:
            return self.tracer.create_proxy("call_function", function, (self, other), {})

        return change

    for name in IN_PLACE:
        setattr(Changeable, f"__{name}__", make_operator(name))

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
            return is_leaf(m)

        def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
            return Changeable(node, self)

    tracer = Tracer()
    tracer.record_stack_traces = True
    return tracer


def _erase_unused(graph: Any, keep: set[str]) -> None:
    """Arguments that were fixed, and comparisons that were asserted."""
    for node in reversed(list(graph.nodes)):
        is_fixed = node.op == "placeholder" and node.target not in keep
        is_checked = node.op == "call_function" and node.target.__name__ == "eq"
        if not node.users and (is_fixed or is_checked):
            graph.erase_node(node)


def _find_attribute(root: Any, target: str) -> Any:
    for name in target.split("."):
        root = getattr(root, name)
    return root


def _find_output(graph: Any) -> Any:
    return next(node for node in graph.nodes if node.op == "output").args[0]


def export(call: Call) -> Traced:
    """The graph by torch.export, whose batch may vary where the module allows it.

    Raises:
        Unsuitable: the module does what cannot be exported.
    """
    import torch
    from torch.export.graph_signature import InputKind, OutputKind

    kwargs = {**call.others, **call.tensors}
    sizes = {tensor.shape[0] for tensor in call.tensors.values() if tensor.ndim}
    is_free = len(sizes) == 1 and sizes != {1}
    automatic = {0: torch.export.Dim.AUTO}
    shapes = {name: automatic if is_free and tensor.ndim else None
              for name, tensor in call.tensors.items()}  # fmt: skip
    shapes |= dict.fromkeys(call.others)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                call.module, (), kwargs, dynamic_shapes=shapes, strict=False
            )
    except Exception as exc:  # whatever the user's code raises when it is exported
        raise Unsuitable(f"{find_raised(exc)}: {_first_line(exc)}") from exc
    signature = program.graph_signature
    states, names, inputs = {}, {}, {}
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs[spec.arg.name] = spec.arg.name
        else:
            names[spec.arg.name] = spec.target
            states[spec.arg.name] = _find_state(program, spec.target)
    changed = [s for s in signature.output_specs if s.kind is not OutputKind.USER_OUTPUT]
    if changed:
        node = next(node for node in program.graph.nodes if node.name == changed[0].arg.name)
        raise Unsuitable(f"{find_line(node)}: it changes its own {changed[0].target!r} when called")
    flat = list(_find_output(program.graph))
    return Traced(
        root=program.graph_module,
        graph=program.graph,
        inputs=tuple(inputs[name] for name in call.tensors),
        states=states,
        names=names,
        output=_restore(flat, program.call_spec.out_spec),
    )


def _find_state(program: Any, target: str) -> Any:
    return program.state_dict[target] if target in program.state_dict else program.constants[target]


def _restore(flat: Sequence[Any], spec: Any) -> Any:
    """The result as the module gives it; of classes that hold fields, a dict."""
    import torch

    restored = torch.utils._pytree.tree_unflatten(flat, spec)
    if isinstance(restored, Mapping):
        return {key: value for key, value in restored.items() if value is not None}
    return restored


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def refuse(module: torch.nn.Module, reasons: Sequence[tuple[str, str]]) -> ModelError:
    """The error for a module that no way of capturing takes, by (way, line and reason)."""
    said = "; ".join(f"by {way}, {reason}" for way, reason in reasons)
    return ModelError(
        f"{type(module).__name__} cannot be captured: {said}; write that line without looking at"
        " values of tensors, in operations that partwise knows, or put it outside the module"
    )
