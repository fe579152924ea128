"""What compression costs in accuracy on SmolLM2, and onnxruntime-genai's int4 beside it.

All versions are measured on the same windows of text, the last tenth of `pydoc_data.topics`,
which calibration does not see. SmolLM2's source is itself dequantised Q4_1, so that re-encoding it
on its own grid is exact and says nothing about int4; it is a row of its own.

- int8, int4 rounded to nearest (as onnxruntime-genai does), with searched scales, calibrated;
- parts in int8 and int4 as they are served: rounded to nearest, inputs of products in int8;
- onnxruntime-genai's builder at the same bits, block and symmetry: its weights are compared with
  ours, number by number, and its graph is run as it is (with 8-bit activations);
- the grid that the weights lie on; half of the MLP units removed.

    python bench/accuracy.py [--windows N] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from genai_peer import QKV, GenaiPredictions, GenaiWeights, build
from harness import SMOLLM2, has_defaults, report
from part_predictions import PartPredictions
from partwise.cli.compressing.buffers import describe_buffers
from partwise.cli.compressing.report import describe, name_source, render
from partwise.cli.compressing.steps import Step, Steps
from partwise.cli.format import format_table
from partwise.cli.progress import Progress
from partwise.compress.accuracy import Accuracy, compare
from partwise.compress.recipe import Recipe
from partwise.compress.text import Texts, read_text, split_text
from partwise.engine.text import Text
from partwise.store import Store

BLOCK = 32
RECIPES = {
    "int8": Recipe(bits=8),
    "int4_rtn": Recipe(bits=4, method="rtn"),
    "int4_search": Recipe(bits=4, method="search"),
    "int4_grid": Recipe(bits=4, method="grid"),
    "int4_gptq": Recipe(bits=4, method="gptq"),
    "int4_gptq_asymmetric": Recipe(bits=4, method="gptq", is_symmetric=False),
    "half_of_mlp": Recipe(mlp_sparsity=0.5),
}
QUICK = ("int8", "int4_rtn")
PRECISIONS = ("int8", "int4")


def link_model(folder: Path) -> Path:
    """A directory with SmolLM2's files, so that versions are written there and go with it."""
    path = folder / SMOLLM2.name
    path.mkdir()
    for file in SMOLLM2.iterdir():
        if file.is_file():
            (path / file.name).symlink_to(file.resolve())
    return path


def share_differing(path: Path, version: int, peer: GenaiWeights) -> float:
    """The share of weights that are other numbers in our version than in the peer's model."""
    num_differing = num_all = 0
    with Store.open(path, version) as store:

        def read(name: str) -> Any:
            return store.read(f"{name}.weight")

        ours: dict[str, Any] = {"lm_head": read("lm_head")}
        for i in range(30):
            attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
            qkv = [read(f"{attention}.{name}") for name in QKV]
            ours[f"layers.{i}.attn.qkv_proj"] = np.concatenate(qkv)
            ours[f"layers.{i}.attn.o_proj"] = read(f"{attention}.o_proj")
            for name in ("gate_proj", "up_proj", "down_proj"):
                ours[f"layers.{i}.mlp.{name}"] = read(f"{mlp}.{name}")
            for name, matrix in ours.items():
                is_near = np.isclose(matrix, peer.matrix(name), rtol=1e-5, atol=0)
                num_differing += int((~is_near).sum())
                num_all += matrix.size
            ours.clear()
    return num_differing / num_all


def measure_genai(
    folder: Path, path: Path, steps: Steps, texts: Texts, rtn_version: int
) -> tuple[Accuracy, dict[str, Any]]:
    """What the peer's graph predicts, and how far its weights are from ours."""
    build(path, folder, block=BLOCK)
    predictions = GenaiPredictions(folder, texts.evaluation)
    accuracy = compare(steps.measure_source(), predictions, texts.evaluation)
    weights = GenaiWeights.load(folder, BLOCK)
    facts = {
        "genai_bytes": weights.num_bytes,
        "genai_share_of_differing_weights": share_differing(path, rtn_version, weights),
    }
    return accuracy, facts


def measure_parts(path: Path, steps: Steps, texts: Texts) -> dict[str, Accuracy]:
    """What parts predict that round the source's weights themselves, by precision."""
    source, windows = steps.measure_source(), texts.evaluation
    return {p: compare(source, PartPredictions(path, p, windows), windows) for p in PRECISIONS}


def list_figures(
    steps: dict[str, Step], parts: dict[str, Accuracy], genai: Accuracy
) -> dict[str, Any]:
    """What is asked for, and the rest by step."""
    figures: dict[str, Any] = {
        "source": "dequantised Q4_1, Q8_0",
        "int8_perplexity_change": steps["int8"].accuracy.perplexity_ratio - 1,
        "int4_rtn_over_genai": steps["int4_rtn"].accuracy.perplexity / genai.perplexity,
        "int8_part_perplexity_change": parts["int8"].perplexity_ratio - 1,
        "int8_part_perplexity_change_size": abs(parts["int8"].perplexity_ratio - 1),
        "int4_part_perplexity_change": parts["int4"].perplexity_ratio - 1,
        "int4_part_over_genai": parts["int4"].perplexity / genai.perplexity,
        "genai_perplexity_change": genai.perplexity_ratio - 1,
        "genai_perplexity_change_standard_error": genai.ratio_spread,
        "genai_kl_nats": genai.kl,
    }
    for name, step in steps.items():
        accuracy = step.accuracy
        figures[f"{name}_perplexity_change"] = accuracy.perplexity_ratio - 1
        figures[f"{name}_perplexity_change_standard_error"] = accuracy.ratio_spread
        figures[f"{name}_kl_nats"] = accuracy.kl
        figures[f"{name}_top1_agreement"] = accuracy.top1_agreement
        figures[f"{name}_bytes"] = step.made.num_bytes
        figures[f"{name}_s"] = step.compress_s
    return figures


def render_runs(parts: dict[str, Accuracy], genai: Accuracy, facts: dict[str, Any]) -> str:
    """What was measured by running graphs, the peer's too, in the words of the steps."""
    headers = ("graph", "perplexity", "change %", "± %", "KL nats", "top-1 same %")
    runs = {f"a part in {name}": accuracy for name, accuracy in parts.items()}
    rows = [
        (
            name,
            accuracy.perplexity,
            f"{100 * (accuracy.perplexity_ratio - 1):+.2f}",
            f"{100 * accuracy.ratio_spread:.2f}",
            f"{accuracy.kl:.5f}",
            100 * accuracy.top1_agreement,
        )
        for name, accuracy in (runs | {"onnxruntime-genai int4": genai}).items()
    ]
    share = 100 * facts["genai_share_of_differing_weights"]
    return (
        f"{format_table(headers, rows)}\n{share:.3f} % of onnxruntime-genai's weights differ from"
        " ours (rtn)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="int8 and plain int4 alone")
    args = parser.parse_args()
    names = QUICK if args.quick else tuple(RECIPES)
    with tempfile.TemporaryDirectory(prefix="partwise-") as folder, Progress() as progress:
        path = link_model(Path(folder))
        source, text = read_text(None)
        texts = split_text(source, text, Text(path).encode, num_evaluation=args.windows)
        steps = Steps(path, 0, texts, progress)
        taken = dict(zip(names, steps.run([RECIPES[name] for name in names]), strict=True))
        version = taken["int4_rtn"].made.manifest.version
        parts = measure_parts(path, steps, texts)
        genai, facts = measure_genai(Path(folder) / "genai", path, steps, texts, version)
    buffers = describe_buffers(steps.model, steps.config)
    document = describe(steps.model, name_source(SMOLLM2), texts, list(taken.values()), buffers)
    print(render(document))
    print(render_runs(parts, genai, facts))
    ratios = {name: step.accuracy.window_ratios for name, step in taken.items()}
    report(
        "accuracy",
        list_figures(taken, parts, genai) | facts | {"buffers": buffers},
        {
            "perplexity_ratios": ratios
            | {f"{name}_part": accuracy.window_ratios for name, accuracy in parts.items()}
            | {"genai": genai.window_ratios}
        },
        is_default=has_defaults(parser, args),
    )


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    main()
