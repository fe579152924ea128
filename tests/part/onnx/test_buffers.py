"""What the plan says of a pass's buffers, against what ONNX Runtime takes from the system.

Its arena is switched off, so that each buffer comes and goes as it is planned, and the C library
is told to map large ones; a process of its own, whose peak is reset before the pass.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import CONTEXT_TOKENS, SPECIAL_IDS, VOCAB_SIZE, save

TOKENS, FACTOR = 2048, 1.1
"""Buffers of megabytes, beside which a process that changes by 100 KB is nothing."""

PROGRAM = """
import json, sys
from pathlib import Path

import numpy as np

from partwise.distributor import balance_layers
from partwise.distributor.buffers import measure_buffers
from partwise.model import open_model
from partwise.part.onnx import session
from partwise.part.onnx.runner import OnnxRunner
from partwise.part.runner import RunnerOptions
from partwise.remote.frame import Row, RowFlag
from partwise.store import Store

path, precision, tokens = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
make_options = session.make_options

def without_arena(threads):
    options = make_options(threads)
    options.enable_cpu_mem_arena = False
    return options

session.make_options = without_arena
model = open_model(path)
plan = balance_layers(model, ["a"], precision=precision, runner="onnx")
with Store.open(path) as store:
    runner = OnnxRunner(RunnerOptions(
        plan=plan, part="part0", model=model, model_path=path, store=store, threads=1,
        on_progress=lambda done, total: None,
    ))
ids, row = np.arange(tokens) % 100, Row(1, 0, tokens, int(RowFlag.PICK))

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))

runner.run((row,), (ids,), lambda: None)  # its caches, and the copy of what it receives
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
runner.run((row,), (ids,), lambda: None)
hidden_bytes = 4 * tokens * model.hidden_size
planned = measure_buffers(plan, model, "part0", tokens=tokens).fused_bytes - hidden_bytes
print(json.dumps([status("VmHWM") - before, planned]))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=256, intermediate_size=1024, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=8 * CONTEXT_TOKENS,
        **SPECIAL_IDS,
    )  # fmt: skip
    return save(LlamaForCausalLM, config, tmp_path_factory.mktemp("wide"), seed=1)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_pass_takes_the_buffers_that_are_planned(wide: Path, precision: str) -> None:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    words = [sys.executable, "-c", PROGRAM, str(wide), precision, str(TOKENS)]
    found = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    measured, planned = json.loads(found.stdout)
    assert planned / FACTOR < measured < planned * FACTOR
