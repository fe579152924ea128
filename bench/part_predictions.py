"""What a part of the onnx runner predicts for windows of text: the graph that serves, with the
rounding of its weights and of the inputs of its products.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.runners import RunnerWish
from partwise.engine.prepared import prepare
from partwise.part.onnx.runner import OnnxRunner
from partwise.part.runner import RunnerOptions
from partwise.store import Store
from window_predictions import WindowPredictions


class PartPredictions(WindowPredictions):
    """The whole model in one part, each window in one pass."""

    def __init__(self, path: Path, precision: str, windows: Sequence[Sequence[int]]) -> None:
        wish = RunnerWish(precision=precision, runner="onnx", is_deterministic=False)
        prepared = prepare(path, parts=1, servers=(), plan=None, wish=wish)
        with Store.open(path, prepared.model.version) as store:
            options = RunnerOptions(
                plan=prepared.plan,
                part=prepared.plan.parts[0].name,
                model=prepared.model,
                model_path=path,
                store=store,
                threads=2,
                on_progress=lambda done_bytes, total_bytes: None,
            )
            self._runner = OnnxRunner(options)
        super().__init__(windows, self._run_window)

    def _run_window(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits of every token, which no request asks for: those of a row's last are what
        the runner returns."""
        table, graph, kv = self._runner._table, self._runner._graph, self._runner._kv
        assert table is not None
        assert graph is not None
        assert kv is not None
        kv.release((0,))
        slot = kv.place({0: len(ids)})[0]
        hidden_BTW = table.look_up(np.array(ids, np.int64))[None]
        return graph.run(hidden_BTW, slot, [len(ids)], range(len(ids))).copy()
