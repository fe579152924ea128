"""Link codecs: what they lose, what they cost, and what they gain over a slow link.

- Perplexity of SmolLM2 (dequantised Q4_1) in 2 and 3 parts on real text, and the bytes of the
  links' tensors, against fp32 links.
- Two parts, one thread each, at 16 streams over 100 Mbit/s (network namespaces, tbf; root): the
  codec that the distributor chooses against fp32, for a random llama whose hop is wide, 16 KiB a
  token. Beside it SmolLM2, whose hop of 2.3 KB 100 Mbit/s carry 5,400 times a second while two
  parts compute 200: fp32 is chosen, and int8 shows what was left out.
- Microseconds to pack and unpack.

    python bench/link_codecs.py [--tokens N] [--rounds N] [--only accuracy|shaped|cost]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from harness import SMOLLM2, has_defaults, ratio, report, spread
from link_codecs_cost import measure_costs
from link_codecs_perplexity import judge
from link_codecs_shaped import STREAMS, choose, compare
from partwise.cli.format import format_table
from wide_llama import make_wide_llama

MBIT_PER_S = 100.0
WIDE_TOKENS, SMOL_TOKENS = 64, 24
"""Tokens of each stream in a round."""
RUNS = ((2, "fp32"), (2, "bf16"), (2, "fp16"), (2, "int8"), (3, "fp32"), (3, "int8"))
SECTIONS = ("accuracy", "shaped", "cost")


def measure_accuracy(num_tokens: int) -> dict[str, float]:
    """Perplexity by parts and codec, the change against fp32 links, bytes of the links."""
    figures: dict[str, float] = {}
    rows: list[tuple[int, str, float, str, float]] = []
    plain: dict[int, float] = {}
    for num_parts, codec in RUNS:
        judged = judge(SMOLLM2, num_parts, codec, num_tokens)
        plain.setdefault(num_parts, judged.perplexity)
        change = judged.perplexity / plain[num_parts] - 1
        name = f"{num_parts}_parts_{codec}"
        figures |= {f"perplexity_{name}": judged.perplexity, f"change_{name}": change,
                    f"bytes_ratio_{name}": judged.bytes_ratio}  # fmt: skip
        percent = f"{100 * change:+.3f}"
        rows.append((num_parts, codec, judged.perplexity, percent, judged.bytes_ratio))
    figures["num_tokens"] = judged.num_tokens
    headers = ("parts", "links", "perplexity", "change %", "bytes x")
    print(format_table(headers, rows))
    return figures


def measure_shaped(num_rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tokens per second over the slow link, of both models."""
    with tempfile.TemporaryDirectory() as folder:
        wide = make_wide_llama(Path(folder))
        found = [
            _compare("wide", wide, "int8", num_rounds, WIDE_TOKENS),
            _compare("smollm2", SMOLLM2, "int8", num_rounds, SMOL_TOKENS),
        ]
    headers = ("model", "codec", "chosen", "tokens/s", "fp32 tokens/s", "ratio", "expected ratio")
    print(format_table(headers, [row for _, row, _ in found]))
    figures = {key: value for one, _, _ in found for key, value in one.items()}
    return figures, {name: rounds for (_, _, rounds), name in zip(found, ("wide", "smollm2"),
                                                                  strict=True)}  # fmt: skip


def _compare(
    name: str, path: Path, codec: str, num_rounds: int, num_tokens: int
) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
    """The codec chosen, or where that is fp32 ``codec``, against fp32."""
    chosen, plain_rate, chosen_rate = choose(path, MBIT_PER_S)
    other = chosen if chosen != "fp32" else codec
    done = compare(path, MBIT_PER_S, other, num_rounds=num_rounds, num_tokens=num_tokens)
    speeds = done["speeds"]
    gain = ratio(speeds[other], speeds["fp32"])
    figures = {
        f"{name}_chosen": chosen,
        f"{name}_compared": other,
        f"{name}_over_fp32": gain.median,
        f"{name}_expected_over_fp32": chosen_rate / plain_rate,
        f"{name}_parts": done["parts"],
    }
    row = (name, other, chosen, str(spread(speeds[other])), str(spread(speeds["fp32"])), str(gain),
           chosen_rate / plain_rate)  # fmt: skip
    return figures, row, speeds


def measure_cost() -> dict[str, float]:
    """Microseconds by codec, rows and width."""
    costs = measure_costs()
    headers = ("codec", "rows", "width", "pack us", "unpack us", "copy us", "packed GB/s")
    rows = [(c.codec, c.num_rows, c.width, c.pack_us, c.unpack_us, c.copy_us, c.pack_gb_per_s)
            for c in costs]  # fmt: skip
    print(format_table(headers, rows))
    figures: dict[str, float] = {}
    for c in costs:
        name = f"{c.codec}_{c.num_rows}x{c.width}"
        figures |= {f"pack_us_{name}": c.pack_us, f"unpack_us_{name}": c.unpack_us}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=SECTIONS)
    args = parser.parse_args()
    figures: dict[str, Any] = {"mbit_per_s": MBIT_PER_S, "streams": STREAMS}
    rounds: dict[str, Any] = {}
    if args.only in (None, "cost"):
        figures |= measure_cost()
    if args.only in (None, "accuracy"):
        figures |= measure_accuracy(args.tokens)
    if args.only in (None, "shaped"):
        more, rounds = measure_shaped(args.rounds)
        figures |= more
    report("link_codecs", figures, rounds, is_default=has_defaults(parser, args))


if __name__ == "__main__":
    main()
