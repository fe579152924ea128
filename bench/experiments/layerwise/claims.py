"""The seed's figures: among themselves, and one by one beside what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.layerwise.memory import MODELS, count_devices, find_block, measure_step
from experiments.layerwise.residency import compare_claimed
from experiments.layerwise.scaling import LOADS, NUM_CARDS, find_scaling
from experiments.layerwise.speed import (
    BASELINE,
    LAYER_WISE,
    Comparison,
    find_ratios,
    halve,
    measure_grid,
    measure_one,
)
from experiments.layerwise.world import (
    CLAIMS,
    DEEP_LAYERS,
    FULL,
    HALVED,
    L2_BYTES_PER_S,
    MB,
    NUM_DEVICES,
    NUM_LAYERS,
    PRESETS,
    SLOW_LINKS,
    describe_gated,
    open_cluster,
)
from experiments.page import Table, round_figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """What follows from the seed's own figures."""

    ratio: float = CLAIMS.layer_mb / CLAIMS.compressed_mb
    cache_percent: float = 100 * CLAIMS.compressed_mb / CLAIMS.cache_mb
    tokens_in_tpot: float = CLAIMS.tokens_per_s * CLAIMS.tpot_ms / 1e3
    baseline_tokens_in_tpot: float = CLAIMS.baseline_tokens_per_s * CLAIMS.baseline_tpot_ms / 1e3
    speed_up: float = CLAIMS.tokens_per_s / CLAIMS.baseline_tokens_per_s
    energy_gain: float = CLAIMS.tokens_per_joule / CLAIMS.baseline_tokens_per_joule
    way_ms: float = 1e3 * NUM_LAYERS * CLAIMS.compressed_mb * MB / L2_BYTES_PER_S
    card_watts: float = CLAIMS.tokens_per_s / CLAIMS.tokens_per_joule / NUM_DEVICES
    baseline_card_watts: float = (
        CLAIMS.baseline_tokens_per_s / CLAIMS.baseline_tokens_per_joule / NUM_DEVICES
    )


def measure_bits(name: str) -> float:
    """Bits that a weight may have for the layer to take what the seed claims."""
    layer = MODELS[name](1).layers[find_block(MODELS[name](1))]
    return 8 * CLAIMS.compressed_mb * MB / layer.num_elements


def find_streams(tokens_per_s: float, grid: tuple[int, int] | None, network: str) -> int:
    """The fewest streams at which a layout (None: one card) reaches so many tokens/s."""
    model, cluster = describe_gated(), open_cluster(32, network)
    for streams in range(1, 513):
        workload = halve(streams)
        if grid is None:
            speed = measure_one(model, cluster, workload)
        else:
            speed = measure_grid(model, cluster, workload, grid)
        if speed.tokens_per_s >= tokens_per_s:
            return streams
    raise ValueError(f"{tokens_per_s} tokens/s take more than 512 streams")


def tabulate_arithmetic() -> Table:
    """What the seed's own figures say of each other."""
    found = Arithmetic()
    return Table(
        name="arithmetic",
        title="The seed's figures among themselves",
        headers=("of the seed's", "makes", "it says"),
        rows=[
            ("537 MB / 49.5 MB", f"{found.ratio:.1f} x", f"{CLAIMS.ratio} x"),
            ("49.5 MB / 50 MB of L2", f"{found.cache_percent:.0f} %", "99 % cache efficiency"),
            (
                "15,360 tokens/s x 0.065 ms",
                f"{found.tokens_in_tpot:.3f}",
                "TPOT is the inverse of throughput",
            ),
            (
                "12,800 tokens/s x 0.078 ms",
                f"{found.baseline_tokens_in_tpot:.3f}",
                "the same of the baseline",
            ),
            (
                "16 x 49.5 MB at 6.9 TB/s of L2",
                f"{1e3 * found.way_ms:.0f} us",
                "TPOT 65 us: no stream's token comes that soon",
            ),
            ("1.48 / 1.14 tokens/J", f"{found.energy_gain:.2f} x", "30 % better"),
            (
                "12,800 tokens/s / 1.14 tokens/J / 16",
                f"{found.baseline_card_watts:.0f} W",
                "a card of the baseline",
            ),
            (
                "15,360 tokens/s / 1.48 tokens/J / 16",
                f"{found.card_watts:.0f} W",
                "a card of layer-wise",
            ),
            *(
                (f"49.5 MB, {name} MLP", f"{measure_bits(name):.2f} bits a weight", "int8")
                for name in MODELS
            ),
        ],
    )


def tabulate_claims(comparisons: Mapping[str, Comparison]) -> Table:
    """Each claim, what was found, and whether it holds."""
    rows = [*_list_memory(), *_list_speed(comparisons), *_list_others()]
    return Table(
        name="claims",
        title="Claim by claim",
        headers=("claim", "the seed", "found", "holds"),
        rows=rows,
    )


def _list_memory() -> list[tuple[str, str, str, str]]:
    full, left = (
        {name: measure_step(make(1), step, is_training=False) for name, make in MODELS.items()}
        for step in (FULL, HALVED)
    )
    devices = {mb: count_devices(describe_gated(1), HALVED, mb) for mb in PRESETS}
    sizes = {
        title: ", ".join(f"{f.weight_bytes / MB:.1f} MB {name}" for name, f in found.items())
        for title, found in (("full", full), ("left", left))
    }
    ratio = full["gated"].weight_bytes / left["gated"].weight_bytes
    return [
        ("a layer in fp16", "537 MB", sizes["full"], "yes, gated"),
        ("compressed", "49.5 MB", f"{sizes['left']}: weights alone", "no"),
        ("compression", "7.5 x (10.8 by its sizes)", f"{ratio:.1f} x", "no"),
        (
            "one layer on one device",
            "1",
            ", ".join(f"{count} with {mb} MB" for mb, count in devices.items()),
            "no",
        ),
        (
            "cache efficiency",
            "99 % against 23 %",
            "a ratio of sizes; both layouts read a sixteenth of the model on each card",
            "no",
        ),
    ]


def _list_speed(comparisons: Mapping[str, Comparison]) -> list[tuple[str, str, str, str]]:
    shown = (1, 16, 128, 512)
    ratios = {network: find_ratios(found) for network, found in comparisons.items()}
    claimed = {mb: find_ratios(compare_claimed(mb, SLOW_LINKS))[1] for mb in PRESETS}

    def say(values: Mapping[int, float]) -> str:
        return " / ".join(f"{values[streams]:.2f}" for streams in shown)

    waits = {
        network: {n: row[LAYER_WISE].token_ms / row[BASELINE].token_ms for n, row in found.items()}
        for network, found in comparisons.items()
    }
    joules = {
        network: {
            n: row[BASELINE].token_joules / row[LAYER_WISE].token_joules for n, row in found.items()
        }
        for network, found in comparisons.items()
    }
    reached = {
        name: find_streams(tokens_per_s, grid, SLOW_LINKS)
        for name, tokens_per_s, grid in (
            (BASELINE, CLAIMS.baseline_tokens_per_s, (2, 8)),
            (LAYER_WISE, CLAIMS.tokens_per_s, (16, 1)),
            ("one card, 15,360", CLAIMS.tokens_per_s, None),
        )
    }
    streams_text = " / ".join(map(str, shown))
    return [
        (
            "tokens/s",
            "12,800; 15,360",
            "reached with "
            + ", ".join(f"{streams} streams ({name})" for name, streams in reached.items()),
            "batch not said",
        ),
        (
            f"throughput ({streams_text} streams)",
            "1.20 x",
            "; ".join(f"{say(ratio)} x, {network}" for network, ratio in ratios.items()),
            "many streams, slow links",
        ),
        (
            "the same, if a layer had 49.5 MB (1 stream)",
            "1.20 x",
            ", ".join(f"{value:.2f} x with {mb} MB" for mb, value in claimed.items()),
            "if 50 MB were all fast",
        ),
        (
            f"time a token ({streams_text} streams)",
            "0.83 x",
            "; ".join(f"{say(wait)} x, {network}" for network, wait in waits.items()),
            "many streams, slow links",
        ),
        (
            f"tokens a joule ({streams_text} streams)",
            "1.30 x",
            "; ".join(f"{say(gain)} x, {network}" for network, gain in joules.items()),
            "many streams, slow links",
        ),
    ]


def _list_others() -> list[tuple[str, str, str, str]]:
    last = NUM_CARDS[-1]
    shares = []
    for num_layers in (NUM_LAYERS, DEEP_LAYERS):
        for name, load in LOADS.items():
            scaling = find_scaling(num_layers, load)
            percent = 100 * scaling[last][0] / (last * scaling[1][0])
            shares.append(f"{round_figure(percent)} % ({num_layers} layers, {name})")
    return [
        (f"linear to {last} devices", "100 %", ", ".join(shares), "deep models, more streams"),
        ("loss of accuracy", "< 0.1 %", "planning cannot say", "open"),
    ]
