"""The layer-wise seed's world: what it says, its model, its 16 cards, and the layouts compared.

Where the seed names nothing (network, context, vocabulary) something is assumed here, said
beside it, and chosen to favour the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

from partwise.cluster import Cluster, LinkSpeed
from partwise.cluster.presets import preset
from partwise.cluster.resize import resize
from partwise.distributor.balanced import cut_evenly
from partwise.distributor.build import build_plan, name_parts
from partwise.distributor.member_shares import find_granules
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.problem import Problem
from partwise.distributor.shares import share_out, split_equally
from partwise.distributor.workload import Workload
from partwise.model import Model, describe_config

MB = 1_000_000
HIDDEN, INTERMEDIATE, NUM_HEADS, NUM_LAYERS, NUM_DEVICES = 4096, 16384, 32, 16, 16
HEAD_DIM = 128
DEEP_LAYERS = 64
NO_VOCABULARY = 64
"""The seed counts layers alone. A model has a head; 64 rows of it are 0.1 % of a layer, and can
be shared by 64 members."""
VOCABULARY = 32_000
"""llama's, where the head is asked about."""
CONTEXT_TOKENS = 128
"""The seed names none. Short, for its sake: half of it is read on average, in fp32 as partwise
holds it, which is what a context of 256 takes in fp16."""
PRESETS = {50: "seed-h100-50mb", 32: "seed-h100-32mb"}
"""By the L2 in MB: as the seed says, and as it was measured to be usable."""
L2_BYTES_PER_S = 6.9e12
"""What an H100 was measured to read from it, as in the presets."""
BOX = 8
NVLINK = LinkSpeed(bandwidth_bytes_per_s=450e9, round_trip_s=4e-6)
"""Assumed within a box of 8: 900 GB/s both ways together (data sheet of the SXM card), 2 us a
way through the switch. The preset's cards are PCIe ones, which have no such switch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The seed's figures, as it prints them."""

    layer_mb: float = 537.0
    compressed_mb: float = 49.5
    cache_mb: float = 50.0
    ratio: float = 7.5
    baseline_tokens_per_s: float = 12_800.0
    tokens_per_s: float = 15_360.0
    baseline_tpot_ms: float = 0.078
    tpot_ms: float = 0.065
    baseline_tokens_per_joule: float = 1.14
    tokens_per_joule: float = 1.48
    baseline_cache_percent: float = 23.0
    cache_percent: float = 99.0
    baseline_memory_percent: float = 15.0
    memory_percent: float = 2.0
    activation_reduction: float = 0.75
    buffer_reduction: float = 0.80


CLAIMS = Claims()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the seed's compression."""

    name: str
    precision: str = "int8"
    mlp_sparsity: float = 0.0
    has_checkpointing: bool = False
    is_fused: bool = False

    def workload(self, **changes: object) -> Workload:
        """One stream of the assumed context at this step, but for ``changes``."""
        values: dict[str, object] = {
            "streams": 1,
            "context_tokens": CONTEXT_TOKENS,
            "precision": self.precision,
            "mlp_sparsity": self.mlp_sparsity,
            "has_checkpointing": self.has_checkpointing,
        }
        return Workload(**values | changes)  # type: ignore[arg-type]


FULL = Step(name="fp16", precision="fp16")
HALVED = Step(name="int8, half of the MLP", mlp_sparsity=0.5)
"""As far as the seed's steps reduce weights."""
STEPS = (
    FULL,
    Step(name="int8"),
    HALVED,
    Step(name="+ checkpointing", mlp_sparsity=0.5, has_checkpointing=True),
    Step(name="+ fusion", mlp_sparsity=0.5, has_checkpointing=True, is_fused=True),
)
SMALLER = (
    Step(name="int4", precision="int4"),
    Step(name="int4, half of the MLP", precision="int4", mlp_sparsity=0.5),
)
"""The seed's last resort for a layer that is too large."""


def describe_gated(
    num_layers: int = NUM_LAYERS,
    *,
    vocabulary: int = NO_VOCABULARY,
    intermediate: int = INTERMEDIATE,
) -> Model:
    """The seed's model with three matrices in the MLP: this is the one of 537 MB a layer."""
    config = {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": intermediate,
        "num_attention_heads": NUM_HEADS,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": num_layers,
        "vocab_size": vocabulary,
        "dtype": "float16",
    }
    return describe_config(config, f"gated-{num_layers}")


def describe_plain(num_layers: int = NUM_LAYERS) -> Model:
    """The seed's model with two matrices in the MLP."""
    config = {
        "model_type": "gpt2",
        "n_embd": HIDDEN,
        "n_inner": INTERMEDIATE,
        "n_head": NUM_HEADS,
        "n_layer": num_layers,
        "n_positions": 2048,
        "vocab_size": NO_VOCABULARY,
        "tie_word_embeddings": False,
        "dtype": "float16",
    }
    return describe_config(config, f"plain-{num_layers}")


def describe_claimed() -> Model:
    """A model whose int8 layer really has 49.5 MB: half as wide, heads and all."""
    config = {
        "model_type": "llama",
        "hidden_size": HIDDEN // 2,
        "intermediate_size": 5320,
        "num_attention_heads": NUM_HEADS // 2,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": NUM_LAYERS,
        "vocab_size": NO_VOCABULARY,
        "dtype": "float16",
    }
    return describe_config(config, "as-small-as-claimed")


def join_boxes(cluster: Cluster) -> Cluster:
    """The same cards in boxes of 8, joined by NVLink inside."""
    names = [host.name for host in cluster.hosts]
    pairs = itertools.combinations(range(len(names)), 2)
    links = {(names[i], names[j]): NVLINK for i, j in pairs if i // BOX == j // BOX}
    return replace(cluster, links=links)


SLOW_LINKS, NVLINK_BOXES = "400 Gb/s", "NVLink in boxes of 8"
NETWORKS: dict[str, Callable[[Cluster], Cluster]] = {
    SLOW_LINKS: lambda cluster: cluster,
    NVLINK_BOXES: join_boxes,
}
"""What joins the cards: as the presets assume, and the fastest that is sold."""


def open_cluster(cache_mb: int, network: str = SLOW_LINKS) -> Cluster:
    """16 cards with that much L2."""
    return join_cards(cache_mb, NUM_DEVICES, network)


def join_cards(cache_mb: int, num_cards: int, network: str = SLOW_LINKS) -> Cluster:
    """Any number of cards with that much L2."""
    return NETWORKS[network](resize(preset(PRESETS[cache_mb]), num_cards))


def pose(model: Model, cluster: Cluster, workload: Workload) -> Problem:
    """The question how ``cluster`` should hold ``model``."""
    names = tuple(server.name for server in cluster.servers)
    return Problem(model=model, cluster=cluster, workload=workload, servers=names)


def plan_grid(problem: Problem, num_stages: int, num_members: int) -> Plan:
    """Pipeline x tensor parallelism: as many stages as asked, equal in what they read, each
    shared equally by neurons among as many members, which stand next to each other."""
    model, num_servers = problem.model, num_stages * num_members
    servers = problem.servers[:num_servers]
    parts = list(name_parts(servers).values())
    bounds = cut_evenly([layer.read_elements_per_token for layer in model.layers], num_stages)
    granules = find_granules(model, problem.workload.precision, {})
    equal = split_equally(num_members, granules)
    stages = []
    for i, layers in enumerate(itertools.pairwise(bounds)):
        group = parts[i * num_members : (i + 1) * num_members]
        members = share_out(model, layers, group, equal, granules)
        stages.append(Stage(start=layers[0], stop=layers[1], members=members))
    return build_plan(problem, "grid", tuple(stages), servers)


def name_layout(num_stages: int, num_members: int) -> str:
    """A layout as people call it."""
    names = {(16, 1): "layer-wise 16 x 1", (2, 8): "TP 8 x PP 2"}
    noun = "stage" if num_stages == 1 else "stages"
    return names.get((num_stages, num_members), f"{num_stages} {noun} x {num_members}")


def name_plan(plan: Plan) -> str:
    """The members of its stages in order, e.g. ``TP 8 x PP 2`` or ``1, 16 x 4``."""
    sizes = [len(stage.members) for stage in plan.stages]
    if len(set(sizes)) == 1:
        return name_layout(len(sizes), sizes[0])
    runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
    return ", ".join(f"{count} x {size}" if count > 1 else f"{size}" for size, count in runs)
