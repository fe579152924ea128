"""The two ends that families share: the token table and the head, tied or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from partwise.model.description import Layer, LayerKind, NeuronAxis, NeuronKind, Parameter
from partwise.model.families.family import VOCABULARY_ROW
from partwise.model.families.stored import StoredTensors

HEAD = "lm_head.weight"
_ROWS = NeuronAxis(kind=VOCABULARY_ROW, axis=0, width=1)


def describe_ends(
    tensors: StoredTensors, table_name: str, shape: tuple[int, int], *, is_tied: bool
) -> tuple[Parameter, Layer]:
    """The token table and the head layer, each of ``shape`` (vocabulary, hidden).

    A tied pair of which the files hold both is described as two parameters: their values may
    differ, which headers do not show, and then transformers does not tie them either. Where
    the files hold the head alone, the table's bytes are the head's.

    Raises:
        DamagedModel: a tensor is missing or has another shape.
    """
    has_head = tensors.has(HEAD)
    is_one_tensor = is_tied and not (has_head and tensors.has(table_name))
    stored = HEAD if is_one_tensor and has_head else None
    table = tensors.take(table_name, shape, _ROWS, stored=stored)
    if is_one_tensor:
        head = replace(table, name=HEAD, alias_of=table_name)
    else:
        head = tensors.take(HEAD, shape, _ROWS)
    return table, Layer(
        name="lm_head",
        kind=LayerKind.HEAD,
        parameters=(head,),
        neuron_kinds=(NeuronKind(name=VOCABULARY_ROW, count=shape[0]),),
        macs_per_token=head.num_elements,
        read_elements_per_token=head.num_elements,
    )


def describe_embedding(name: str, tables: tuple[Parameter, ...]) -> Layer:
    """The embedding layer; ``tables[0]`` is the token table. A token reads one row of each."""
    return Layer(
        name=name,
        kind=LayerKind.EMBEDDING,
        parameters=tables,
        neuron_kinds=(NeuronKind(name=VOCABULARY_ROW, count=tables[0].shape[0]),),
        read_elements_per_token=sum(table.shape[1] for table in tables),
    )


def describe_block(
    name: str, parameters: tuple[Parameter, ...], kinds: tuple[NeuronKind, ...], kv_elements: int
) -> Layer:
    """A decoder block. Its multiply-accumulates are those of its matrices."""
    return Layer(
        name=name,
        kind=LayerKind.BLOCK,
        parameters=parameters,
        neuron_kinds=kinds,
        macs_per_token=_count_used([p for p in parameters if len(p.shape) == 2], kinds),
        read_elements_per_token=_count_used(parameters, kinds),
        kv_elements_per_token=kv_elements,
    )


def _count_used(parameters: Sequence[Parameter], kinds: tuple[NeuronKind, ...]) -> int:
    """Their elements that compute one token: of neurons to choose from those chosen."""
    elements: Counter[str] = Counter()
    for parameter in parameters:
        elements[parameter.neurons[0].kind if parameter.neurons else ""] += parameter.num_elements
    chosen = {kind.name: kind for kind in kinds if kind.num_chosen is not None}
    for name, kind in chosen.items():
        elements[name] = elements[name] // kind.count * (kind.num_chosen or 0)
    return elements.total()


def describe_norm(name: str, parameters: tuple[Parameter, ...]) -> Layer:
    """The final norm."""
    num_elements = sum(p.num_elements for p in parameters)
    return Layer(
        name=name,
        kind=LayerKind.NORM,
        parameters=parameters,
        read_elements_per_token=num_elements,
    )
