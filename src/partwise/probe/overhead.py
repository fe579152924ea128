"""What a runner's call costs besides arithmetic: a model so small that nothing else is left."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from safetensors.numpy import save_file

from partwise.distributor import balance_layers
from partwise.distributor.plan import Precision
from partwise.model import LayerKind, Model, open_model
from partwise.part.kernels import Kernels
from partwise.part.runner import Runner, RunnerOptions
from partwise.probe.spread import Spread, spread
from partwise.remote.frame import Row, RowFlag
from partwise.store import Store

NUM_BLOCKS, HIDDEN, MLP, VOCABULARY = 8, 64, 128, 256
FEW_BLOCKS = 2
NUM_HEADS, NUM_KV_HEADS = 2, 1
PROMPT_TOKENS, NUM_PASSES = 32, 25
ROWS = (1, 4)
NUM_ENDS = 3
"""Layers besides the blocks: embedding, norm and head."""
POLLUTION_BYTES = 16 << 20
"""What is read between two layers, so that the caches are as cold as weights leave them."""
PAUSE_S = 0.02
"""Before each pass, as a part waits while others compute: the first layer after it is slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Seconds of a runner call, of a block in it and of a row in a block."""

    call_s: Spread
    layer_s: Spread
    row_s: Spread


def measure_overhead(kernels: Kernels) -> Overhead:
    """With one thread, by the runner itself, on a llama of HIDDEN in a temporary directory."""
    kernels.use_threads(1)
    with tempfile.TemporaryDirectory(prefix="partwise-") as folder:
        path = Path(folder)
        _save_model(path, NUM_BLOCKS)
        model = open_model(path)
        runner = _make_runner(kernels, path, model, kernels.precisions[0])
        pollute = kernels.read(POLLUTION_BYTES).run
        first, last = (_time_passes(runner, model, rows, pollute) for rows in ROWS)
    num_layers, added = len(model.layers), ROWS[1] - ROWS[0]
    row_s = [max(0.0, b[1] - a[1]) / added for a, b in zip(first, last, strict=True)]
    one_row_s = spread(row_s).median
    layer_s = [block_s - ROWS[0] * one_row_s for _, block_s in first]
    # Every layer is priced as a block: the others, which cost less, are part of the call.
    call_s = [max(0.0, pass_s - num_layers * block_s) for pass_s, block_s in first]
    return Overhead(call_s=spread(call_s), layer_s=spread(layer_s), row_s=spread(row_s))


def measure_call_overhead(kernels: Kernels, precision: str) -> Overhead:
    """The same of a runner that computes all layers in one call: from passes of two models, one
    of FEW_BLOCKS and one of NUM_BLOCKS, the caches cold before each."""
    kernels.use_threads(1)
    pollute = kernels.read(POLLUTION_BYTES).run
    passes = {}
    for num_blocks in (FEW_BLOCKS, NUM_BLOCKS):
        with tempfile.TemporaryDirectory(prefix="partwise-") as folder:
            path = Path(folder)
            _save_model(path, num_blocks)
            model = open_model(path)
            runner = _make_runner(kernels, path, model, precision)
            passes[num_blocks] = [
                [pass_s for pass_s, _ in _time_passes(runner, model, rows, pollute)]
                for rows in ROWS
            ]
    added_blocks, added_rows = NUM_BLOCKS - FEW_BLOCKS, ROWS[1] - ROWS[0]
    few_s, many_s = (spread(passes[n][0]).median for n in (FEW_BLOCKS, NUM_BLOCKS))
    quads = zip(*passes[FEW_BLOCKS], *passes[NUM_BLOCKS], strict=True)
    row_s = [max(0.0, (d - c) - (b - a)) / added_rows / added_blocks for a, b, c, d in quads]
    one_row_s = spread(row_s).median
    block_s = max(0.0, many_s - few_s) / added_blocks
    layer_s = [
        max(0.0, (b - a) / added_blocks - ROWS[0] * one_row_s)
        for a, b in zip(passes[FEW_BLOCKS][0], passes[NUM_BLOCKS][0], strict=True)
    ]
    # Every layer is priced as a block, also the ends.
    num_layers = FEW_BLOCKS + NUM_ENDS
    call_s = [max(0.0, pass_s - num_layers * block_s) for pass_s in passes[FEW_BLOCKS][0]]
    return Overhead(call_s=spread(call_s), layer_s=spread(layer_s), row_s=spread(row_s))


def _time_passes(
    runner: Runner, model: Model, num_rows: int, pollute: Callable[[], None]
) -> list[tuple[float, float]]:
    """Of each pass of ``num_rows`` the seconds in all, and of a block (the median of all; no
    number where layers are not computed one by one)."""
    is_block = np.array([layer.kind is LayerKind.BLOCK for layer in model.layers])
    ids = np.ones(num_rows * PROMPT_TOKENS, np.int64)
    prompts = [Row(i, 0, PROMPT_TOKENS, RowFlag.PROMPT) for i in range(num_rows)]
    runner.run(prompts, (ids,), _do_nothing)
    times = []
    for number in range(NUM_PASSES):
        rows = [Row(i, PROMPT_TOKENS + number, 1, RowFlag.PICK) for i in range(num_rows)]
        time.sleep(PAUSE_S)
        pollute()
        layers_s = _time_layers(runner, rows, pollute)
        is_each = len(layers_s) == len(is_block)
        block_s = float(np.median(layers_s[is_block])) if is_each else math.nan
        times.append((float(layers_s.sum()), block_s))
    runner.release(range(num_rows))
    return times[NUM_PASSES // 5 :]  # the first ones still warm up


def _time_layers(
    runner: Runner, rows: Sequence[Row], pollute: Callable[[], None]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Seconds of each layer of one pass."""
    marks = [time.perf_counter()]

    def between_layers() -> None:
        marks.append(time.perf_counter())
        pollute()
        marks.append(time.perf_counter())

    runner.run(rows, (np.ones(len(rows), np.int64),), between_layers)
    marks.append(time.perf_counter())
    return np.diff(marks)[::2]


def _do_nothing() -> None:
    """Between the layers of a pass that is not measured."""


def _make_runner(kernels: Kernels, path: Path, model: Model, precision: str) -> Runner:
    plan = balance_layers(model, ["probe"], precision=cast("Precision", precision))
    with Store.open(path) as store:
        options = RunnerOptions(
            plan=plan,
            part=plan.parts[0].name,
            model=model,
            model_path=path,
            store=store,
            threads=1,
            on_progress=lambda done_bytes, total_bytes: None,
        )
        return kernels.make_runner(options)


def _save_model(folder: Path, num_blocks: int) -> None:
    kv_width = HIDDEN // NUM_HEADS * NUM_KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for i in range(num_blocks):
        block = {
            "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            "self_attn.k_proj.weight": (kv_width, HIDDEN),
            "self_attn.v_proj.weight": (kv_width, HIDDEN),
            "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            "mlp.gate_proj.weight": (MLP, HIDDEN),
            "mlp.up_proj.weight": (MLP, HIDDEN),
            "mlp.down_proj.weight": (HIDDEN, MLP),
            "input_layernorm.weight": (HIDDEN,),
            "post_attention_layernorm.weight": (HIDDEN,),
        }
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in block.items()}
    tensors = {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "max_position_embeddings": 512,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
