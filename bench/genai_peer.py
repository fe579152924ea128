"""onnxruntime-genai's model of the same weights: what its builder makes, what that says, and how
fast its own loop runs it.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.compress.blocks import Quantized, dequantize
from partwise.part.onnx.rounding import Rounding
from window_predictions import WindowPredictions

QKV = ("q_proj", "k_proj", "v_proj")


def build(model: Path, folder: Path, *, block: int, precision: str = "int4") -> None:
    """Have the builder write its model: blocks with zeros as ours have them, rounded to nearest,
    inputs of products as int8."""
    is_symmetric = str(Rounding(precision=precision).is_symmetric).lower()
    options = (f"block_size={block}", f"is_symmetric={is_symmetric}", "accuracy_level=4")
    command = (
        sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-m", "unused",
        "-o", str(folder), "-p", precision, "-e", "cpu", "-c", str(folder / "cache"),
        "--extra_options", *options,
    )  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the builder of onnxruntime-genai failed: {done.stderr[-2000:]}")


def serve_genai(pipe: Connection, folder: str, threads: int) -> None:
    """A process that reads a prompt and decodes whenever it is asked: (ids, tokens) in, seconds
    until the first token and tokens per second after it out."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime_genai

    config = onnxruntime_genai.Config(folder)
    options = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = onnxruntime_genai.Model(config)
    pipe.send("ready")
    while True:
        ids, num_tokens = pipe.recv()
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(
            min_length=len(ids) + num_tokens, max_length=len(ids) + num_tokens, do_sample=False
        )
        generator = onnxruntime_genai.Generator(model, params)
        start_s = time.perf_counter()
        generator.append_tokens(np.array(ids, np.int32))
        generator.generate_next_token()
        first_s = time.perf_counter()
        for _ in range(num_tokens - 1):
            generator.generate_next_token()
        stop_s = time.perf_counter()
        rate = (num_tokens - 1) / (stop_s - first_s) if num_tokens > 1 else 0.0
        pipe.send((first_s - start_s, rate))


class GenaiPredictions(WindowPredictions):
    """The builder's graph, run by onnxruntime."""

    def __init__(self, folder: Path, windows: Sequence[Sequence[int]]) -> None:
        import onnxruntime

        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        # Batch, KV heads, no past tokens, head size.
        self._past = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])

        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        super().__init__(windows, self._run_window)

    def _run_window(self, ids: Sequence[int]) -> NDArray[np.float32]:
        feed: dict[str, Any] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
        }
        for entry in self._session.get_inputs():
            if entry.name.startswith("past_key_values"):
                feed[entry.name] = np.empty(self._past, np.float32)
        logits: NDArray[np.float32] = self._session.run(["logits"], feed)[0][0]
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class GenaiWeights:
    """The builder's quantised matrices, dequantised by the names that the model gives them."""

    graph: Any
    block: int

    @classmethod
    def load(cls, folder: Path, block: int) -> GenaiWeights:
        """Read the graph with its data."""
        import onnx

        return cls(graph=onnx.load(str(folder / "model.onnx")).graph, block=block)

    def matrix(self, name: str) -> NDArray[np.float32]:
        """A matrix such as ``layers.0.mlp.up_proj`` or ``lm_head``; q, k and v are one,
        ``layers.0.attn.qkv_proj``."""
        prefix = "lm_head" if name == "lm_head" else f"model.{name}"
        packed, scales = (
            self._array(f"{prefix}.MatMul.weight_{kind}") for kind in ("Q4", "scales")
        )
        return dequantize(
            Quantized(packed=packed, scales=scales, zero_points=None, bits=4, block=self.block)
        )

    def _array(self, name: str) -> Any:
        from onnx import numpy_helper

        found = next(entry for entry in self.graph.initializer if entry.name == name)
        return numpy_helper.to_array(found)

    @property
    def num_bytes(self) -> int:
        """Of all that the graph stores."""
        return sum(self._array(entry.name).nbytes for entry in self.graph.initializer)
