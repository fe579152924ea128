"""The strategy ``connectivity``: neurons that feed each other go to the same server.

It pays on sparse layers only, and follows a chain of linear layers (an MLP); attention mixes
all of a group's inputs, so a cut inside it saves nothing. It balances the chain, not each
layer: where that sends less, it cuts between layers too, and the plan's notes say how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from partwise.distributor import by_count
from partwise.distributor.by_count import choose_granules, plan_shared
from partwise.distributor.id_lists import to_ranges
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import plan_or_say
from partwise.distributor.shares import Ranges, round_shares
from partwise.errors import Infeasible, PlanError
from partwise.model.description import Layer, Model, NeuronKind, Parameter

if TYPE_CHECKING:
    from partwise.distributor.hypergraph import Mask, Owners

NAME = "connectivity"
HELP = "by neurons: the cut of the non-zero weights that sends the fewest activations"

DEFAULT_IMBALANCE = 0.03
"""How far above an equal share of the weights a part may lie: the partitioner's own default."""


def plan(problem: Problem) -> Plan:
    """One stage of all layers, cut where the fewest activations are read across.

    Options: ``masks``, by parameter, which weights are not zero (boolean arrays of the
    parameters' shapes, one for each linear layer); ``imbalance``, the share of weights by
    which a part may exceed an equal one; ``seed``. Where nothing is to be gained (no masks, or
    dense ones) the plan is that of ``count``, and its notes say so.

    Raises:
        PlanError: masks that do not follow a chain of linear layers, or no partitioner.
        Infeasible: more servers than neurons, or too little memory.
    """
    return plan_or_say(problem, _find)


def _find(problem: Problem) -> Plan:
    num_parts, given = len(problem.servers), problem.options.get("masks")
    if not given:
        return _fall_back(problem, "no masks are given, so every layer counts as dense")
    if num_parts == 1:
        return _fall_back(problem, "there is one server, which sends no activations")
    masks = read_masks(problem.model, given)
    if all(mask.all() for mask in masks.values()):
        return _fall_back(problem, "every weight is non-zero")
    return _cut(problem, masks)


def _cut(problem: Problem, masks: Mapping[int, Mask]) -> Plan:
    from partwise.distributor.hypergraph import count_sent

    chain, num_parts = list(masks.values()), len(problem.servers)
    granules = choose_granules(problem)
    sizes = [granules.get(problem.model.layers[i].neuron_kinds[0].name, 1) for i in masks]
    owners = _cut_granules(problem, chain, sizes)
    num_sent = count_sent(chain, owners, num_parts)
    num_by_count = count_sent(chain, own_by_count(chain, num_parts, sizes), num_parts)
    if num_sent >= num_by_count:
        return _fall_back(
            problem, f"the best cut found sends {num_sent} activations, count {num_by_count}"
        )
    owners_of = dict(zip(masks, owners, strict=True))
    fullest, even = (100 * share for share in (find_largest_share(chain, owners), 1 / num_parts))
    notes = [
        f"a pass sends {num_sent} activations a row, by count it would be {num_by_count}",
        f"the fullest server holds {fullest:.0f} % of a layer's weights, even is {even:.0f} %",
    ]

    def choose(i: int, _: NeuronKind) -> Sequence[Ranges]:
        return [
            to_ranges((owners_of[i] == part).nonzero()[0].tolist()) for part in range(num_parts)
        ]

    return plan_shared(problem, NAME, choose, granules, notes)


def _cut_granules(problem: Problem, chain: Sequence[Mask], sizes: Sequence[int]) -> list[Owners]:
    """The owners of every layer's outputs, those of a granule (of ``sizes``) together."""
    import numpy as np

    from partwise.distributor.hypergraph import cut_neurons

    merged = [
        np.logical_or.reduceat(m, range(0, len(m), n)) for m, n in zip(chain, sizes, strict=True)
    ]
    for i, size in enumerate(sizes[:-1]):
        width = merged[i + 1].shape[1]
        merged[i + 1] = np.logical_or.reduceat(merged[i + 1], range(0, width, size), axis=1)
    num_granules, num_parts = sum(map(len, merged)), len(problem.servers)
    if num_parts > num_granules:
        raise Infeasible(
            f"{num_parts} servers are more than the {num_granules} neurons of"
            f" {problem.model.name} that can be apart: give {num_granules} servers or fewer"
        )
    owners = cut_neurons(
        merged,
        num_parts,
        imbalance=problem.options.get("imbalance", DEFAULT_IMBALANCE),
        seed=problem.options.get("seed", 0),
    )
    return [
        np.repeat(own, size)[: len(mask)]
        for own, size, mask in zip(owners, sizes, chain, strict=True)
    ]


def find_largest_share(masks: Sequence[Mask], owners: Sequence[Owners]) -> float:
    """The largest share of one layer's non-zero weights that one part owns.

    The cut balances the chain, not each layer: near 1 it has cut between layers, and the parts
    of a pass wait for each other.
    """
    shares = []
    for mask, owner in zip(masks, owners, strict=True):
        weights = mask.sum(axis=1)
        held = [weights[owner == part].sum() for part in set(owner.tolist())]
        shares.append(float(max(held) / max(weights.sum(), 1)))
    return max(shares)


def own_by_count(masks: Sequence[Mask], num_parts: int, sizes: Sequence[int] = ()) -> list[Owners]:
    """The owners of every layer's outputs under the strategy ``count``, whose granules are of
    ``sizes`` (none given: 1)."""
    import numpy as np

    return [
        np.repeat(np.arange(num_parts), round_shares(len(mask), [1] * num_parts, size))
        for mask, size in zip(masks, sizes or [1] * len(masks), strict=True)
    ]


def read_masks(model: Model, given: Any) -> dict[int, Mask]:
    """The mask of each layer that has neurons, by layer (index), checked to be a chain.

    Raises:
        PlanError: a mask for no parameter, of another shape, missing, or a layer whose neurons
            are not the outputs of one linear layer that reads those of the one before.
    """
    import numpy as np

    if not isinstance(given, Mapping):
        raise PlanError(f"masks are a {type(given).__name__}: give one for each parameter")
    unknown = given.keys() - {parameter.name for parameter in model.parameters}
    if unknown:
        raise PlanError(
            f"there is a mask for {min(unknown, key=str)!r}, no parameter of {model.name}"
        )
    masks: dict[int, Mask] = {}
    width = None
    for i, layer in enumerate(model.layers):
        if not layer.neuron_kinds:
            continue
        linear = _find_linear(layer, given)
        mask = np.asarray(given[linear.name]).astype(bool)
        if mask.shape != linear.shape:
            raise PlanError(
                f"the mask of {linear.name!r} has shape {mask.shape}, the parameter"
                f" {linear.shape}: give it the parameter's"
            )
        if width not in {None, mask.shape[1]}:
            raise PlanError(
                f"{linear.name!r} reads {mask.shape[1]} inputs, the layer before it has {width}"
                " outputs: connectivity follows a chain of linear layers; use another strategy"
            )
        masks[i], width = mask, mask.shape[0]
    return masks


def _find_linear(layer: Layer, given: Mapping[str, Any]) -> Parameter:
    """The weight whose rows are the layer's neurons."""
    matrices = [p for p in layer.parameters if len(p.shape) == 2]
    kinds = ", ".join(kind.name for kind in layer.neuron_kinds)
    if len(matrices) != 1 or len(layer.neuron_kinds) != 1:
        raise PlanError(
            f"{layer.name} has {len(matrices)} weight matrices with the neurons {kinds}:"
            " connectivity follows a chain of linear layers; use another strategy"
        )
    (matrix,) = matrices
    rows = [axis for axis in matrix.neurons if axis.axis == 0 and axis.width == 1]
    if len(rows) != 1 or layer.neuron_kinds[0].count != matrix.shape[0]:
        raise PlanError(
            f"the neurons of {layer.name} are not the rows of {matrix.name!r}: connectivity"
            " follows a chain of linear layers; use another strategy"
        )
    if matrix.name not in given:
        raise PlanError(f"there is no mask for {matrix.name!r}: give one for each linear layer")
    return matrix


def _fall_back(problem: Problem, reason: str) -> Plan:
    note = f"nothing is to be gained by connectivity: {reason}; the neurons are shared by count"
    try:
        return by_count.find(problem, [note])
    except Infeasible as exc:
        # Of the same kind, so that what is missing can be worked out.
        raise type(exc)(f"{note}, but {exc}") from exc
