"""SmolLM2 in int8 and int4 on 2 and 3 members, by granules, against one part of the same rounded
weights, where products leave their inputs in fp32.

As deployed they round their inputs to int8 too: then the last bit of a sum in another order decides
on which side of a rounding an input falls, and that is all in which members may differ from one
part (`members.py` measures how much that is). Without it no logit may be further off than 1e-4 of
the largest one. Graphs that compute so are built in a folder that goes away.

    python bench/members_rounded.py [--tokens N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import ROOT, SMOLLM2, has_defaults, report

sys.path.insert(0, str(ROOT / "tests"))

from partwise.cli.format import format_table
from partwise.model import open_model
from partwise.part.onnx import linear
from partwise.part.onnx.runner import OnnxRunner
from partwise.remote.frame import Row, RowFlag
from support.plans import Computed
from support.sharing import share_layers
from support.stages import Stages

IN_FP32 = 0
"""The level of accuracy at which products of rounded weights leave their inputs as they are."""
RELATIVE = 1e-4
SHARES = ([1, 1], [7, 3], [1, 1, 1], [6, 3, 1])
NUM_TOKENS, PROMPT_TOKENS = 12, 40
ASKED = int(RowFlag.PICK | RowFlag.LOGPROB | RowFlag.LOGITS)


def link_files(folder: Path) -> Path:
    """The model without graphs that were built of it before."""
    for file in SMOLLM2.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    return folder


def run(path: Path, weights: Sequence[int], precision: Any, ids: Sequence[int]) -> list[np.ndarray]:
    """The logits after a prompt and after each of the other tokens; all members say the same."""
    model = open_model(path)
    computed = Computed(runner="onnx", precision=precision)
    plan = share_layers(model, [(0, len(model.layers), weights)], computed)
    stages = Stages(path, plan, OnnxRunner)
    passes = [(0, PROMPT_TOKENS), *((i, i + 1) for i in range(PROMPT_TOKENS, len(ids)))]
    logits = []
    for start, stop in passes:
        rows = (Row(0, start, stop - start, ASKED),)
        logits.append(stages.run(rows, ids[start:stop])[2][0])
    return logits


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    args = parser.parse_args()
    linear.ACCURACY_LEVEL = IN_FP32
    ids = np.random.default_rng(3).integers(0, 40_000, PROMPT_TOKENS + args.tokens).tolist()
    rows, figures = [], dict[str, Any]()
    num_wrong_ids = 0
    for precision in ("int8", "int4"):
        largest = 0.0
        with tempfile.TemporaryDirectory() as folder:
            path = link_files(Path(folder))
            whole = run(path, [1], precision, ids)
            scale = max(float(np.abs(logits).max()) for logits in whole)
            for weights in SHARES:
                found = run(path, weights, precision, ids)
                pairs = list(zip(found, whole, strict=True))
                off = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs) / scale
                # What is picked may differ among logits that are as close as that.
                gaps = [float(theirs.max() - theirs[ours.argmax()]) for ours, theirs in pairs]
                num_wrong = sum(gap > RELATIVE * scale for gap in gaps)
                rows.append((precision, str(weights), f"{off:.1e}", num_wrong))
                largest, num_wrong_ids = max(largest, off), num_wrong_ids + num_wrong
        figures[f"{precision}_relative_max"] = largest
    print(format_table(("precision", "shares", "off by", "wrong ids"), rows))
    figures |= {"num_members_max": max(map(len, SHARES)), "num_wrong_ids": num_wrong_ids}
    report("members_rounded", figures, is_default=has_defaults(parser, args))
    is_met = all(figures[f"{name}_relative_max"] <= RELATIVE for name in ("int8", "int4"))
    return int(not is_met or num_wrong_ids > 0)


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
