"""What it is worth on a GPU that a layer stays in the L2 cache: the seed's own case.

The MLP of the seed's dense layer (two matrices, 4096 inputs and outputs) is cut by its units to 8
to 64 MB of weights in bf16. Resident, one of them is called again and again; rotated, copies far
larger than the cache take turns, so that each call reads its weights from device memory. Both are
CUDA graphs of the same calls, so that no launch from the host is measured, and are replayed in turn
in several rounds.

`cache_fit.py` runs it where there is a CUDA device. By itself it puts its figures into the results
of that, which may be of another machine, and leaves the rest as it is.

    python bench/cache_fit_cuda.py [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from experiments.layerwise.world import HIDDEN, MB
from experiments.page import Table
from harness import RESULTS, Spread, describe_machine, has_defaults, ratio, spread

if TYPE_CHECKING:
    import torch

NO_DEVICE = "not measured: no CUDA device"
SIZES_MB = (8, 16, 24, 32, 40, 48, 56, 64)
TOKENS = (1, 512)
"""Of a call: bound by reading, and by computing on an H100, whose balance is at about 300."""
ELEMENT_BYTES = 2
UNIT_BYTES = 2 * HIDDEN * ELEMENT_BYTES
"""Of a unit of the MLP: its row of one matrix and its column of the other."""
GRANULE_UNITS = 64
ROTATED_CACHES = 8
"""Copies hold so many times what the cache does: none of one is left when its turn comes again."""
LEAST_CALLS, REPLAYS, ROUNDS = 64, 5, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaLayer:
    """Seconds of a call of one layer with ``tokens``, by rounds; ``num_copies`` took turns."""

    tokens: int
    layer_bytes: int
    num_copies: int
    resident_s: tuple[float, ...]
    rotated_s: tuple[float, ...]

    @property
    def gain(self) -> Spread:
        """How many times as fast the layer is when it is resident."""
        return ratio(self.rotated_s, self.resident_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaRun:
    """What was measured on one device."""

    device: str
    l2_bytes: int
    machine: dict[str, Any]
    layers: tuple[CudaLayer, ...]


def choose_units(size_mb: int) -> int:
    """Of the MLP, so that its weights come closest to ``size_mb``."""
    return GRANULE_UNITS * max(1, round(size_mb * MB / UNIT_BYTES / GRANULE_UNITS))


def count_copies(layer_bytes: int, l2_bytes: int) -> int:
    """How many layers take turns."""
    return max(2, -(-ROTATED_CACHES * l2_bytes // layer_bytes))


def list_turns(num_layers: int) -> list[int]:
    """Which layer each call of a graph is of: every one as often."""
    return [*range(num_layers)] * -(-LEAST_CALLS // num_layers)


def make_layer(units: int, device: str) -> torch.nn.Module:
    """An MLP of so many units."""
    import torch
    from torch import nn

    with torch.device(device):
        layer = nn.Sequential(
            nn.Linear(HIDDEN, units, bias=False), nn.GELU(), nn.Linear(units, HIDDEN, bias=False)
        )
    return layer.to(torch.bfloat16).requires_grad_(False)


def count_bytes(layer: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in layer.parameters())


class Replay:
    """A CUDA graph of calls of ``layers`` in turn."""

    def __init__(self, layers: Sequence[torch.nn.Module], hidden: torch.Tensor) -> None:
        import torch

        turns = list_turns(len(layers))
        self._num_calls = len(turns)
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        # What libraries set up at their first call must not be captured.
        with torch.cuda.stream(beside), torch.inference_mode():
            for layer in layers:
                layer(hidden)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            for turn in turns:
                layers[turn](hidden)

    def time(self) -> float:
        """Seconds of a call: of the best of REPLAYS, after one that warms up."""
        import torch

        times_ms = []
        for _ in range(REPLAYS + 1):
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            self._graph.replay()
            stop.record()
            stop.synchronize()
            times_ms.append(start.elapsed_time(stop))
        return float(min(times_ms[1:])) / 1e3 / self._num_calls


def measure_cuda(rounds: int, sizes_mb: Sequence[int] = SIZES_MB) -> CudaRun | None:
    """Both sides of every size on the first CUDA device; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        print(f"the CUDA part is {NO_DEVICE}", file=sys.stderr, flush=True)
        return None
    properties = torch.cuda.get_device_properties(0)
    layers = []
    for size_mb in sizes_mb:
        for tokens in TOKENS:
            layers.append(_measure_layer(choose_units(size_mb), tokens, properties, rounds))
            print(f"cuda, {size_mb} MB: {layers[-1].gain}", file=sys.stderr, flush=True)
    return CudaRun(
        device=properties.name,
        l2_bytes=properties.L2_cache_size,
        machine=describe_machine(),
        layers=tuple(layers),
    )


def _measure_layer(units: int, tokens: int, properties: Any, rounds: int) -> CudaLayer:
    import torch

    num_copies = count_copies(units * UNIT_BYTES, properties.L2_cache_size)
    copies = [make_layer(units, "cuda") for _ in range(num_copies)]
    hidden = torch.randn(tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
    resident, rotated = Replay(copies[:1], hidden), Replay(copies, hidden)
    pairs = [(resident.time(), rotated.time()) for _ in range(rounds + 1)]
    resident_s, rotated_s = zip(*pairs[1:], strict=True)
    return CudaLayer(
        tokens=tokens,
        layer_bytes=count_bytes(copies[0]),
        num_copies=num_copies,
        resident_s=resident_s,
        rotated_s=rotated_s,
    )


def summarize_cuda(run: CudaRun | None) -> dict[str, Any]:
    """The figures: the gain of layers of half of the cache and less, of those that are larger than
    it, and of calls that are bound by computing. None where there is nothing to say."""
    if run is None:
        return {}
    reading = [layer for layer in run.layers if layer.tokens == TOKENS[0]]
    computing = [layer for layer in run.layers if layer.tokens > TOKENS[0]]
    fitting = [layer for layer in reading if 2 * layer.layer_bytes <= run.l2_bytes]
    larger = [layer for layer in reading if layer.layer_bytes > run.l2_bytes]
    return {
        "cuda_gain_fitting": max((layer.gain.median for layer in fitting), default=None),
        "cuda_gain_larger": max((layer.gain.median for layer in larger), default=None),
        "cuda_computing_gain": max((layer.gain.median for layer in computing), default=None),
    }


def tabulate_cuda(run: CudaRun | None) -> Table:
    """A row for each layer and number of tokens, or that there are none."""
    title = "Resident in L2 against rotated through device memory"
    if run is None:
        return Table(name="cuda", title=title, headers=("CUDA",), rows=[(NO_DEVICE,)])
    rows = [
        (
            layer.tokens,
            layer.layer_bytes / MB,
            layer.num_copies,
            1e6 * spread(layer.resident_s).median,
            1e6 * spread(layer.rotated_s).median,
            layer.layer_bytes / spread(layer.resident_s).median / 1e9,
            layer.layer_bytes / spread(layer.rotated_s).median / 1e9,
            str(layer.gain),
        )
        for layer in run.layers
    ]
    headers = (
        "tokens", "layer MB", "copies", "resident us", "rotated us", "resident GB/s",
        "rotated GB/s", "gain",
    )  # fmt: skip
    title += f": {run.device}, {run.l2_bytes / MB:.0f} MB of L2"
    return Table(name="cuda", title=title, headers=headers, rows=rows)


def read_cuda(document: dict[str, Any]) -> CudaRun | None:
    """The run in a document of results, if there was one."""
    found = document.get("rounds", {}).get("cuda")
    return None if found is None else msgspec.convert(found, CudaRun)


def put_cuda(document: dict[str, Any], run: CudaRun) -> dict[str, Any]:
    """``document`` of results with ``run`` instead of the one that it had."""
    rounds = {**document["rounds"], "cuda": asdict(run)}
    return {**document, **summarize_cuda(run), "rounds": rounds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    run = measure_cuda(args.rounds)
    print(tabulate_cuda(run).render_text())
    path = RESULTS / "cache_fit.json"
    if run is not None and has_defaults(parser, args):
        path.write_text(json.dumps(put_cuda(json.loads(path.read_text()), run), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
