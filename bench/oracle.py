"""Logits and ids of models in parts against transformers, in fp32.

SmolLM2 and a random model of each family, on several numbers of parts:
- by torch, with default batching, all prompts submitted at once: per-step logits within 1e-4 of
  transformers, the same ids except where its two best logits are that close (listed; such a
  sequence is compared no further);
- deterministic: the same bounds, and bit-equal logits for every number of parts;
- by ONNX Runtime where it covers the model: within 1e-3. Its products are summed in another
  order than torch's. Of SmolLM2, whose logits go up to 40, transformers' own are up to 6e-5 from
  those of fp64, and so are these.

    python bench/oracle.py [--prompts N] [--tokens N] [--parts N,N,...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import partwise
from harness import SMOLLM2, has_defaults, report
from oracle_cases import Case, make_cases, run_transformers
from oracle_comparison import BOUND, Comparison, Reference
from partwise.cli.format import format_table
from partwise.distributor.plan import RunnerName
from partwise.distributor.runners import find_lack
from partwise.model import open_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How parts compute, and the largest difference of a logit that they may have."""

    name: str
    runner: RunnerName
    bound: float = BOUND
    is_deterministic: bool = False


ONNX = Mode(name="batched, onnx", runner="onnx", bound=1e-3)
MODES = (
    Mode(name="batched", runner="torch"),
    Mode(name="deterministic", runner="torch", is_deterministic=True),
    ONNX,
)


def compare(
    case: Case, references: Sequence[Reference], parts: int, mode: Mode, num_tokens: int
) -> Comparison:
    """Run all prompts at once on ``parts`` servers, and compare every step."""
    options = partwise.DeployOptions(
        threads=1, is_deterministic=mode.is_deterministic, runner=mode.runner
    )
    comparison = Comparison(model=case.name, parts=parts, mode=mode.name, bound=mode.bound)
    with partwise.deploy(case.path, parts=parts, options=options) as net:
        generations = [
            net.submit(
                partwise.Request(prompt_ids=prompt, max_tokens=num_tokens, wants_logits=True)
            )
            for prompt in case.prompts
        ]
        comparison.add_all(references, generations)
    return comparison


def bit_equal_parts(comparisons: Sequence[Comparison]) -> list[int]:
    """The numbers of parts whose deterministic logits have the bits of the first one's."""
    runs = [c for c in comparisons if c.mode == "deterministic"]
    return [c.parts for c in runs if c.digests == runs[0].digests]


def run_case(case: Case, parts: Sequence[int], num_tokens: int) -> list[Comparison]:
    """Every number of parts in both modes."""
    start_s = time.monotonic()
    references = run_transformers(case, num_tokens)
    distinct = min(len(set(reference.ids)) for reference in references)
    print(
        f"{case.name}: transformers {time.monotonic() - start_s:.0f} s,"
        f" at least {distinct} distinct ids in {num_tokens}",
        file=sys.stderr,
    )
    comparisons = []
    is_covered = not find_lack(open_model(case.path), "fp32")
    for mode in (m for m in MODES if m.runner == "torch" or is_covered):
        for count in parts:
            start_s = time.monotonic()
            comparisons.append(compare(case, references, count, mode, num_tokens))
            took_s = time.monotonic() - start_s
            print(f"{case.name}: {count} parts, {mode.name}: {took_s:.0f} s", file=sys.stderr)
    return comparisons


def summarize(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The figures of one model."""
    is_onnx = np.array([c.mode == ONNX.name for c in comparisons])
    differences = np.array([c.max_abs_difference for c in comparisons])
    return {
        "max_abs_difference": float(np.max(differences, where=~is_onnx, initial=0.0)),
        "onnx_max_abs_difference": float(np.max(differences, where=is_onnx, initial=0.0)),
        "ids_identical": all(not c.num_wrong_ids for c in comparisons),
        "num_ties": sum(len(c.ties) for c in comparisons),
        "bit_equal_parts": bit_equal_parts(comparisons),
    }


def print_tables(comparisons: Sequence[Comparison]) -> None:
    """Every run, then every tie."""
    first = {c.model: c.digests for c in reversed(comparisons) if c.mode == "deterministic"}
    rows = [
        (
            c.model, c.parts, c.mode, c.num_steps, f"{c.max_abs_difference:.2e}",
            "no" if c.num_wrong_ids else "yes", len(c.ties),
            ("yes" if c.digests == first[c.model] else "no") if c.mode == "deterministic" else "",
        )
        for c in comparisons
    ]  # fmt: skip
    headers = ("model", "parts", "mode", "steps", "max difference", "ids identical", "ties",
               "bit-equal")  # fmt: skip
    print(format_table(headers, rows))
    ties = [
        (c.model, c.parts, c.mode, t.sequence, t.step, t.reference_id, t.picked_id, f"{t.gap:.2e}")
        for c in comparisons
        for t in c.ties
    ]
    if ties:
        headers = ("tie in", "parts", "mode", "sequence", "step", "reference id", "id", "gap")
        print(f"\n{format_table(headers, ties)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--parts", default="1,2,3,5")
    args = parser.parse_args()
    parts = [int(text) for text in args.parts.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(Path(folder), SMOLLM2, args.prompts)
        runs = {case.name: run_case(case, parts, args.tokens) for case in cases}
    comparisons = [comparison for run in runs.values() for comparison in run]
    print_tables(comparisons)
    models = {name: summarize(run) for name, run in runs.items()}
    equal = [n for n in parts if all(n in m["bit_equal_parts"] for m in models.values())]
    figures = {
        "prompts": args.prompts,
        "tokens": args.tokens,
        "parts": parts,
        **{
            name: float(np.max([m[name] for m in models.values()]))
            for name in ("max_abs_difference", "onnx_max_abs_difference")
        },
        "ids_identical": all(m["ids_identical"] for m in models.values()),
        "num_ties": sum(m["num_ties"] for m in models.values()),
        "bit_equal_parts": equal,
        "models": models,
    }
    report(
        "oracle",
        figures,
        {"comparisons": [asdict(c) for c in comparisons]},
        is_default=has_defaults(parser, args),
    )
    return int(equal != parts or not all(c.is_within_bounds for c in comparisons))


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
