"""Stages of several members: plans of them, and runners that exchange numbers."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from partwise.distributor import Plan
from partwise.distributor.member_shares import find_granules
from partwise.distributor.plan import Member, NeuronShare, Stage
from partwise.distributor.shares import lay_out, round_shares
from partwise.model import Model
from partwise.part.runner import RunnerFactory, RunnerOptions
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array
from partwise.remote.messages import Stats
from support.parts import Hook, Parts, ignore_pass
from support.plans import BY_TORCH, Computed, put_together


def share_layers(
    model: Model,
    stages: Sequence[tuple[int, int, Sequence[int]]],
    computed: Computed = BY_TORCH,
    *,
    server: str = "server",
) -> Plan:
    """A verified plan of (start, stop, weights): as many members share the neurons of the layers in
    proportion to their weights; one alone holds them whole. Parts are on server0 and so on."""
    names = iter([f"part{i}" for i in range(sum(len(weights) for *_, weights in stages))])
    granules = find_granules(model, computed.precision, None)
    made = []
    for start, stop, weights in stages:
        shares = _deal(model, (start, stop), weights, granules)
        members = tuple(Member(part=next(names), neurons=own) for own in shares)
        made.append(Stage(start=start, stop=stop, members=members))
    return put_together(model, made, computed, server=server)


def _deal(
    model: Model, layers: tuple[int, int], weights: Sequence[int], granules: Mapping[str, int]
) -> list[tuple[NeuronShare, ...]]:
    """What each member owns of ``layers``; one alone owns them whole."""
    if len(weights) == 1:
        return [()]
    kinds = {kind for i in range(*layers) for kind in model.layers[i].neuron_kinds}
    dealt = {
        kind.name: lay_out(round_shares(kind.count, weights, granules.get(kind.name, 1)))
        for kind in kinds
    }
    return [
        tuple(
            NeuronShare(kind=name, ranges=ranges[i], granule=granules.get(name, 1))
            for name, ranges in dealt.items()
        )
        for i in range(len(weights))
    ]


def read_settled(parts: Parts, num_calls: Sequence[int]) -> list[Stats]:
    """The counters of all parts as soon as each made its calls: members other than the one that
    answers may be behind it."""
    stop_s = time.monotonic() + 10
    while True:
        stats = parts.coordinator.stats()
        if [s.exchanged.calls for s in stats] == list(num_calls):
            return stats
        assert time.monotonic() < stop_s, [s.exchanged.calls for s in stats]
        time.sleep(0.01)


class Sharing:
    """Makes runners that count as `CountingRunner` does, and exchange while they do.

    Of what they carry each member has some columns, which are summed; then they sum noise, of
    which only the same order of adding gives the same bits, and gather candidates for picks.
    ``sums`` collects by stage and number of the pass what each member got.
    """

    def __init__(self, on_pass: Hook = ignore_pass, num_noises: int = 1) -> None:
        self.on_pass = on_pass
        self.num_noises = num_noises
        self.sums: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
        self.lock = threading.Lock()

    @property
    def make(self) -> RunnerFactory:
        return lambda options: _SharingRunner(options, self)

    def check_same(self) -> None:
        """All members of a stage got the same bits in every pass."""
        assert self.sums
        assert all(len(set(sums)) == 1 for sums in self.sums.values())


class _SharingRunner:
    weight_bytes = 0
    host_bytes = 0
    notes = ()

    def __init__(self, options: RunnerOptions, scene: Sharing) -> None:
        stage = options.plan.stage_of(options.part)
        self._part, self._start = options.part, stage.start
        self._is_last = stage == options.plan.stages[-1]
        self._width, self._vocab_size = options.model.hidden_size, options.model.vocab_size
        self._exchange = options.exchange
        assert (self._exchange is not None) == (len(stage.members) > 1)
        self._scene = scene
        self._num_passes = 0

    def run(
        self, rows: Sequence[Row], inputs: Sequence[Array], between_layers: Callable[[], None]
    ) -> tuple[Array, ...]:
        """See `Runner.run`."""
        self._num_passes += 1
        self._scene.on_pass(self._part, self._num_passes, between_layers)
        between_layers()
        ids_N = np.asarray(inputs[0]).reshape(len(inputs[0]), -1)[:, 0]
        hidden = np.repeat(ids_N.astype(np.float32)[:, None], self._width, axis=1)
        if self._exchange is not None:
            hidden = self._sum(hidden, between_layers)
        if not self._is_last:
            return (hidden,)
        ends = np.cumsum([row.num_tokens for row in rows]) - 1
        asks = [bool(row.flags & RowFlag.PICK) for row in rows]
        picks = (hidden[ends[asks], -1].astype(np.int64) + 1) % self._vocab_size
        if self._exchange is not None and any(asks):
            is_own = picks % self._exchange.num_members == self._exchange.index
            picks = np.max(self._exchange.gather(np.where(is_own, picks, -1)), axis=0)
        return (picks,)

    def _sum(self, hidden: np.ndarray, between_layers: Callable[[], None]) -> np.ndarray:
        exchange = self._exchange
        is_own = np.arange(self._width) % exchange.num_members == exchange.index
        partial = np.ascontiguousarray(hidden * is_own)
        total = exchange.sum(partial).copy()
        assert np.array_equal(partial, hidden * is_own), "what was given was changed"
        seen = []
        for number in range(self._scene.num_noises):
            between_layers()
            rng = np.random.default_rng([self._num_passes, number, exchange.index])
            noise = exchange.sum(rng.standard_normal(hidden.shape, np.float32))
            seen.append(noise.tobytes())
            noise[:] = np.nan  # it is ours until the next call
        with self._scene.lock:
            self._scene.sums[self._start, self._num_passes].append(b"".join(seen))
        return total

    def release(self, sequences: Sequence[int]) -> None:
        """See `Runner.release`."""
