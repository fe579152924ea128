"""The values of a graph by name: what they are, and who reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from partwise.capture.arguments import list_references
from partwise.capture.graph import Graph, Node, State, TensorSpec


def list_read(node: Node) -> list[str]:
    """The inputs and results that ``node`` reads, each once."""
    return list(dict.fromkeys(list_references([*node.args, node.kwargs], "node")))


def list_states(node: Node) -> list[str]:
    """The states that ``node`` reads, each as often as it does."""
    return [*node.states.values(), *list_references([*node.args, node.kwargs], "state")]


@dataclass(frozen=True)
class Values:
    """What a graph's inputs, results and states are."""

    graph: Graph
    _nodes: dict[str, Node] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes.update({node.name: node for node in self.graph.nodes})

    @cached_property
    def states(self) -> dict[str, State]:
        """States by name."""
        return {state.name: state for state in self.graph.states}

    @cached_property
    def num_uses(self) -> Counter[str]:
        """How often each state is read."""
        return Counter(name for node in self.graph.nodes for name in list_states(node))

    @cached_property
    def _users(self) -> dict[str, list[Node]]:
        users: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in list_read(node):
                users.setdefault(name, []).append(node)
        return users

    def users(self, name: str) -> list[Node]:
        """The nodes that read a value; the results of the graph are none."""
        return [] if name in self.outputs else self._users.get(name, [])

    @cached_property
    def outputs(self) -> list[str]:
        """The values that the results are made of."""
        return list(dict.fromkeys(list_references(self.graph.output, "node")))

    @cached_property
    def _inputs(self) -> dict[str, TensorSpec]:
        return {entry.name: entry.spec for entry in self.graph.inputs}

    def spec(self, name: str) -> TensorSpec | None:
        """The tensor that a value is; None where it is made of several."""
        return self._inputs[name] if name in self._inputs else self._nodes[name].spec

    def leaves(self, name: str) -> Sequence[TensorSpec]:
        """The tensors that a value is made of."""
        return [self._inputs[name]] if name in self._inputs else self._nodes[name].leaves

    def structure(self, name: str) -> Any:
        """How a value is made of its tensors (`arguments.py`)."""
        return {"leaf": 0} if name in self._inputs else self._nodes[name].structure

    def num_bytes(self, name: str, batch: int) -> int:
        """Bytes of a value in a batch of so many rows."""
        return sum(leaf.num_bytes(batch) for leaf in self.leaves(name))
