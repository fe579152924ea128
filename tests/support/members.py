"""One stage of several members on the onnx runner: each a thread, all computing the same passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from partwise.distributor.build import identify, join
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Member, NeuronShare, Part, Plan, Precision, Stage
from partwise.distributor.verify import verify_plan
from partwise.model import Model, open_model
from partwise.part.onnx.runner import OnnxRunner
from partwise.part.runner import RunnerOptions
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array
from partwise.store import Store
from support.exchange import ThreadExchange, join_threads, run_members

Owners = Mapping[str, Sequence[int]]
"""By kind of neurons, the member that owns each granule; granules are as even as can be."""
ALL = RowFlag.PICK | RowFlag.LOGPROB | RowFlag.LOGITS
PASSES: list[tuple[Row, ...]] = [
    (Row(0, 0, 7), Row(1, 0, 3, int(ALL))),
    (Row(0, 7, 6), Row(1, 3, 1)),
    (Row(0, 13, 2, int(ALL)), Row(2, 0, 5, int(ALL)), Row(1, 4, 1, int(ALL))),
    (Row(0, 15, 1, int(ALL)), Row(1, 5, 1, int(ALL)), Row(2, 5, 1, int(ALL))),
    (Row(1, 6, 1, int(ALL)),),
    (Row(2, 6, 3, int(RowFlag.PICK)), Row(0, 16, 1, int(RowFlag.PICK | RowFlag.LOGPROB))),
]
"""Prompts whole, in chunks and beside others, and decoding of one row and of several."""


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
    names = [member.part for stage in stages for member in stage.members]
    plan = Plan(
        strategy="by hand",
        model=identify(model),
        stages=tuple(stages),
        parts=tuple(Part(name=n, server=n, precision=precision, runner="onnx") for n in names),
        links=join(stages),
        placements=place_parameters(model, stages),
    )
    verify_plan(plan, model)
    return plan


def _share(
    model: Model, name: str, owner_of: Sequence[int], member: int, granules: Mapping[str, int]
) -> NeuronShare:
    kind, _, layer = name.partition("@")
    layers = (int(layer), int(layer) + 1) if layer else None
    counts = {k.name: k.count for one in model.layers for k in one.neuron_kinds}
    granule = granules.get(kind, 1)
    num_granules = -(-counts[kind] // granule)
    ranges: list[tuple[int, int]] = []
    for i in range(num_granules):
        if owner_of[i % len(owner_of)] == member:
            start, stop = i * granule, min((i + 1) * granule, counts[kind])
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, stop))
    return NeuronShare(kind=kind, ranges=tuple(ranges), layers=layers)


class Stages:
    """The runners of a plan. ``exchanges`` are those of its members, if it has several."""

    def __init__(self, path: Path, plan: Plan, threads: int = 1) -> None:
        self._path = path
        self._plan = plan
        self._threads = threads
        self.exchanges: list[ThreadExchange] = []
        self.runners = [self._open_stage(stage) for stage in plan.stages]

    def run(self, rows: Sequence[Row], ids: Sequence[int]) -> tuple[Array, ...]:
        """One pass. The members of a stage must say the same, bit for bit."""
        tensors: tuple[Array, ...] = (np.array(ids, np.int64),)
        for runners in self.runners:
            given = tensors
            outputs = run_members(
                lambda i, to=runners, what=given: to[i].run(rows, what, lambda: None), len(runners)
            )
            for other in outputs[1:]:
                assert [t.tobytes() for t in other] == [t.tobytes() for t in outputs[0]]
            tensors = outputs[0]
        return tensors

    def release(self, sequences: Sequence[int]) -> None:
        """At all parts."""
        for runners in self.runners:
            for runner in runners:
                runner.release(sequences)

    def _open_stage(self, stage: Stage) -> list[OnnxRunner]:
        names = [member.part for member in stage.members]
        exchanges = join_threads(len(names)) if len(names) > 1 else []
        self.exchanges += exchanges
        given: list[ThreadExchange | None] = [*exchanges] or [None]
        return [self._open(name, one) for name, one in zip(names, given, strict=True)]

    def _open(self, part: str, exchange: ThreadExchange | None) -> OnnxRunner:
        model = open_model(self._path)
        with Store.open(self._path) as store:
            return OnnxRunner(
                RunnerOptions(
                    plan=self._plan, part=part, model=model, model_path=self._path, store=store,
                    threads=self._threads, on_progress=lambda done, total: None, exchange=exchange,
                )
            )  # fmt: skip


Outputs = list[tuple[Array, ...]]


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
    largest = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        assert [(t.dtype, t.shape) for t in ours] == [(t.dtype, t.shape) for t in theirs]
        largest = max(largest, float((ours[0] != theirs[0]).sum()) if ours[0].size else 0.0)
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            largest = max(largest, float(np.abs(mine - other).max() / np.abs(other).max()))
    return largest
