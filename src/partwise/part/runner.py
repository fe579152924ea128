"""What computing a part means, whatever computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partwise.distributor.devices import CPU
from partwise.distributor.plan import Plan
from partwise.model import Model
from partwise.part.exchange import Exchange
from partwise.remote.frame import Row
from partwise.remote.layout import Array
from partwise.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """What a runner is built from. ``on_progress(done_bytes, total_bytes)`` is called while
    it loads and may raise to abandon it. ``exchange``: with the other members of the part's
    stage, None where there are none; it works from the first pass on. ``device``: the server's,
    cpu, cuda or cuda:N."""

    plan: Plan
    part: str
    model: Model
    model_path: Path
    store: Store
    threads: int
    on_progress: Callable[[int, int], None]
    exchange: Exchange | None = None
    device: str = CPU


class Runner(Protocol):
    """Computes the layers of one part. One thread owns it. ``notes`` say to people what it did
    otherwise than was to be expected when it was made. Of the ``weight_bytes`` it holds,
    ``host_bytes`` lie in the memory of this process: on a GPU none."""

    weight_bytes: int
    host_bytes: int
    notes: tuple[str, ...]

    def run(
        self,
        rows: Sequence[Row],
        inputs: Sequence[Array],
        between_layers: Callable[[], None],
    ) -> tuple[Array, ...]:
        """The tensors that cross the next cut, or the picks of the last part.

        A pass computes the tokens of all ``rows`` one after the other, N in all. ``inputs``
        of the first part are the token ids, int64 (N); of every other part the tensors that
        cross its cut, float32 (N, width). The outputs own their memory.

        The last part returns, for the rows that ask (see `RowFlag`), in row order: ids int64
        (R); if any row asks for log-probabilities, theirs float32 (R); if any row asks for
        logits, logits float32 (R, vocabulary).

        ``between_layers`` is called between two layers and may raise to abandon the pass.

        Raises:
            NotFinite: an output held NaN or infinity.
        """
        ...

    def release(self, sequences: Sequence[int]) -> None:
        """Free the KV cache of ``sequences``; unknown ones are ignored."""
        ...


RunnerFactory = Callable[[RunnerOptions], Runner]
