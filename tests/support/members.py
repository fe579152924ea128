"""Plans of one stage of several members for the onnx runner, and passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from partwise.distributor.plan import Member, NeuronShare, Plan, Precision, Stage
from partwise.model import Model
from partwise.remote.frame import Row
from support.passes import PASSES, Outputs, compare
from support.plans import Computed, find_ranges, put_together
from support.stages import Stages

Owners = Mapping[str, Sequence[int]]
"""By kind of neurons, the member that owns each granule; granules are as even as can be."""


def plan_members(
    model: Model, num_members: int, owners: Owners, *, precision: Precision = "fp32",
    layers: tuple[int, int] | None = None, granules: Mapping[str, int] | None = None,
) -> Plan:  # fmt: skip
    """A verified plan whose middle stage of ``layers`` (None: all) has the members part0, part1,
    ...; what is before and after is held whole by parts called before and after.

    ``owners`` repeat over the granules of a kind. A kind may be followed by ``@layer``: then it is
    about that layer alone.
    """
    start, stop = layers or (0, len(model.layers))
    shares = [
        [_share(model, name, owner_of, member, granules or {}) for name, owner_of in owners.items()]
        for member in range(num_members)
    ]
    members = [Member(part=f"part{i}", neurons=tuple(own)) for i, own in enumerate(shares)]
    stages = [Stage(start=start, stop=stop, members=tuple(members))]
    if start:
        stages.insert(0, Stage(start=0, stop=start, members=(Member(part="before"),)))
    if stop < len(model.layers):
        end = Stage(start=stop, stop=len(model.layers), members=(Member(part="after"),))
        stages.append(end)
    return put_together(model, stages, Computed(runner="onnx", precision=precision))


def _share(
    model: Model, name: str, owner_of: Sequence[int], member: int, granules: Mapping[str, int]
) -> NeuronShare:
    kind, _, layer = name.partition("@")
    layers = (int(layer), int(layer) + 1) if layer else None
    counts = {k.name: k.count for one in model.layers for k in one.neuron_kinds}
    granule = granules.get(kind, 1)
    owners = np.resize(owner_of, -(-counts[kind] // granule)).repeat(granule)[: counts[kind]]
    return NeuronShare(kind=kind, ranges=find_ranges(owners, member), layers=layers)


def run_passes(
    stages: Stages, passes: Sequence[Sequence[Row]] = PASSES, *, vocab_size: int = 380,
    before: Callable[[int], None] = lambda number: None,
) -> Outputs:  # fmt: skip
    """What the stages say to each pass of one seeded text a sequence; ``before`` each is called."""
    texts = np.random.default_rng(7).integers(0, vocab_size, (8, 400))
    outputs = []
    for number, rows in enumerate(passes):
        before(number)
        spans = [texts[row.sequence, row.position : row.position + row.num_tokens] for row in rows]
        outputs.append(stages.run(rows, np.concatenate(spans).tolist()))
    return outputs


def find_difference(found: Outputs, expected: Outputs) -> float:
    """The largest, relative to the largest value. Picks differ by one, each of them."""
    difference = compare(found, expected)
    return max(difference.relative, float(difference.num_other_ids))
