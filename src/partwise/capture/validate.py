"""Whether a graph from a file asks for nothing but what the table lists, in an order that works."""

from __future__ import annotations

from partwise.capture.arguments import list_references
from partwise.capture.graph import ELEMENT_BYTES, Graph, Node, TensorSpec
from partwise.capture.table import MODULES, find_callable
from partwise.errors import DamagedModel

_AGAIN = "capture the module again"


def check_graph(graph: Graph) -> None:
    """Refuse a graph with operations outside the table, or that refers to what is not there.

    Raises:
        DamagedModel: the first contradiction found.
    """
    states = {state.name for state in graph.states}
    known = {entry.name for entry in graph.inputs}
    specs = [entry.spec for entry in graph.inputs]
    for node in graph.nodes:
        _check_operation(node)
        arguments = [*node.args, node.kwargs]
        _check_known(node, known, list(list_references(arguments, "node")), "value")
        used = [*node.states.values(), *list_references(arguments, "state")]
        _check_known(node, states, used, "state")
        if node.name in known:
            raise DamagedModel(f"two operations are called {node.name!r}: {_AGAIN}")
        known.add(node.name)
        specs += node.leaves
    missing = [name for name in list_references(graph.output, "node") if name not in known]
    if missing:
        raise DamagedModel(f"the output {missing[0]!r} is computed nowhere: {_AGAIN}")
    for spec in specs:
        _check_spec(spec)


def _check_operation(node: Node) -> None:
    if node.kind != "module":
        find_callable(node.kind, node.target)
    elif node.target not in MODULES or node.options.keys() - set(MODULES[node.target]):
        raise DamagedModel(
            f"{node.name!r} asks for the module {node.target!r}, which is in no table of this"
            f" partwise: {_AGAIN} with this version"
        )


def _check_known(node: Node, known: set[str], used: list[str], what: str) -> None:
    missing = [name for name in used if name not in known]
    if missing:
        raise DamagedModel(
            f"{node.name!r} reads the {what} {missing[0]!r}, which is not there before it: {_AGAIN}"
        )


def _check_spec(spec: TensorSpec) -> None:
    is_valid = spec.dtype in ELEMENT_BYTES and sorted(spec.order) == [*range(len(spec.shape))]
    if not is_valid:
        raise DamagedModel(f"no tensor is {spec.dtype} with axes {spec.order}: {_AGAIN}")
