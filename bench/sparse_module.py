"""The block-sparse chain of `plan_connectivity.py` as a module over 8 servers, each a process: what
they push to each other, beside the cut that the strategy predicts, byte for byte.

    python bench/sparse_module.py [--batch N]
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness import ROOT, has_defaults, report

sys.path.insert(0, str(ROOT / "tests"))

import torch

import partwise
from partwise.cli.format import format_table
from partwise.distributor.hypergraph import count_sent
from plan_connectivity import NUM_BLOCKS, plant_blocks
from support.modules import call_whole, find_largest_error
from support.nets import make_sparse_net
from support.plans import list_owners

WIDTHS, BATCH, SEED = (8, 32), 16, 0
FP32_BYTES, WITHIN = 4, 1e-5


def measure(width: int, strategy: str, batch: int) -> tuple[int, int, float]:
    """Bytes pushed between servers in a call, those of the plan's cut, and the largest error."""
    masks, _ = plant_blocks(width, SEED)
    torch.manual_seed(SEED)
    net, num_neurons = make_sparse_net(masks), len(masks[0])
    x = torch.randn(batch, num_neurons)
    options = partwise.DeployOptions(threads=1)
    with partwise.deploy(net, x[:2], parts=NUM_BLOCKS, strategy=strategy, options=options) as parts:
        error = find_largest_error([parts(x)], call_whole(net, [x]))
        pushed = sum(parts.count_pushed().values())
        owners = list_owners(parts.plan, [num_neurons] * len(masks))
    return pushed, FP32_BYTES * batch * count_sent(masks, owners, NUM_BLOCKS), error


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=BATCH)
    args = parser.parse_args()
    rows, figures = [], dict[str, Any]()
    for width in WIDTHS:
        pushed = {}
        for strategy in ("count", "connectivity"):
            pushed[strategy], predicted, error = measure(width, strategy, args.batch)
            rows.append((width, strategy, pushed[strategy], predicted, f"{error:.1e}"))
        figures[f"saved_{width}_times"] = pushed["count"] / pushed["connectivity"]
    print(format_table(("block", "strategy", "bytes", "predicted", "largest error"), rows))
    figures |= {
        "num_servers": NUM_BLOCKS,
        "bytes_off": max((row[2] - row[3] for row in rows), key=abs),
        "error_max": max(float(row[4]) for row in rows),
    }
    report("sparse_module", figures, is_default=has_defaults(parser, args))
    return int(figures["bytes_off"] != 0 or figures["error_max"] > WITHIN)


if __name__ == "__main__":
    sys.exit(main())
