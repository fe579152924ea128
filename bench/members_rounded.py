"""SmolLM2 in int8 and int4 on 2 and 3 members, by granules, against one part of the same rounded
weights, where products leave their inputs in fp32.

As deployed they round their inputs to int8 too: then the last bit of a sum in another order decides
on which side of a rounding an input falls, and that is all in which members may differ from one
part. Without it no logit may be further off than 1e-4 of the largest one. With it they may be as
far off as one part is from itself where each embedding is a last bit off (up to twice that: a few
cases of either are compared). Graphs are built in a folder that goes away.

    python bench/members_rounded.py [--tokens N]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from harness import ROOT, SMOLLM2, has_defaults, report

sys.path.insert(0, str(ROOT / "tests"))

from partwise.cli.format import format_table
from partwise.model import open_model
from partwise.part.onnx import linear
from partwise.part.onnx.runner import OnnxRunner
from partwise.part.onnx.table import Table
from partwise.remote.frame import Row, RowFlag
from support.plans import Computed
from support.sharing import share_layers
from support.stages import Stages

IN_FP32 = 0
"""The level of accuracy at which products of rounded weights leave their inputs as they are."""
RELATIVE = 1e-4
SHARES = ([1, 1], [7, 3], [1, 1, 1], [6, 3, 1])
PRECISIONS = ("int8", "int4")
NUM_TOKENS, PROMPT_TOKENS = 12, 40
LAST_BIT = "1 part, last bits of embeddings off"
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


def measure(precision: Any, ids: Sequence[int]) -> Outcome:
    """Members against one part, by products as ``linear`` has them now."""
    outcome = Outcome(precision=precision, level=linear.ACCURACY_LEVEL)
    with tempfile.TemporaryDirectory() as folder:
        path = link_files(Path(folder))
        whole = run(path, [1], precision, ids)
        for weights in SHARES:
            outcome.add(f"members {weights}", run(path, weights, precision, ids), whole)
        for seed in range(len(SHARES)):
            with last_bits_off(seed):
                found = run(path, [1], precision, ids)
            outcome.add(LAST_BIT, found, whole)
    return outcome


@contextlib.contextmanager
def last_bits_off(seed: int) -> Iterator[None]:
    """Meanwhile every number of an embedding is the next one, up or down."""
    look_up, generator = Table.look_up, np.random.default_rng(seed)

    def look_up_off(self: Table, ids_N: Any) -> Any:
        values = look_up(self, ids_N)
        ends = np.where(generator.random(values.shape) < 0.5, -np.inf, np.inf)
        return np.nextafter(values, ends.astype(np.float32))

    with mock.patch.object(Table, "look_up", look_up_off):
        yield


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How far logits of each case are off those of one part, as shares of the largest."""

    precision: str
    level: int
    off: dict[str, float] = field(default_factory=dict)
    num_wrong_ids: int = 0

    def add(self, case: str, found: Sequence[Any], whole: Sequence[Any]) -> None:
        """Compare pass by pass. Picks may differ among logits that are within RELATIVE."""
        scale = max(float(np.abs(logits).max()) for logits in whole)
        pairs = list(zip(found, whole, strict=True))
        off = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs) / scale
        self.off[case] = max(off, self.off.get(case, 0.0))
        gaps = [float(theirs.max() - theirs[ours.argmax()]) for ours, theirs in pairs]
        self.num_wrong_ids += sum(gap > RELATIVE * scale for gap in gaps)

    @property
    def members_max(self) -> float:
        return max(off for case, off in self.off.items() if case != LAST_BIT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    args = parser.parse_args()
    ids = np.random.default_rng(3).integers(0, 40_000, PROMPT_TOKENS + args.tokens).tolist()
    deployed = [measure(precision, ids) for precision in PRECISIONS]
    linear.ACCURACY_LEVEL = IN_FP32
    plain = [measure(precision, ids) for precision in PRECISIONS]
    rows = [
        (each.precision, "fp32" if each.level == IN_FP32 else "int8", case, f"{off:.1e}")
        for each in (*plain, *deployed)
        for case, off in each.off.items()
    ]
    print(format_table(("weights", "inputs", "case", "off by"), rows))
    figures: dict[str, Any] = {
        "num_members_max": max(map(len, SHARES)),
        "num_wrong_ids": sum(each.num_wrong_ids for each in plain),
    }
    for each in plain:
        figures[f"{each.precision}_relative_max"] = each.members_max
    for each in deployed:
        figures[f"{each.precision}_deployed_relative_max"] = each.members_max
        over = each.members_max / each.off[LAST_BIT]
        figures[f"{each.precision}_deployed_over_last_bit"] = over
    report("members_rounded", figures, is_default=has_defaults(parser, args))
    return 0


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
