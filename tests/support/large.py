"""Headers of a llama of 405 billion parameters, and clusters of many unequal machines."""

from __future__ import annotations

import math
import random
from pathlib import Path

from partwise.cluster.description import Cluster, Curve, Host, LinkSpeed, Rates, Server
from partwise.model import Model, TensorEntry
from partwise.model.families import find_family

GIB, MIB = 1 << 30, 1 << 20


def describe_llama(
    *, num_blocks: int, hidden: int, inner: int, heads: int, kv_heads: int, vocabulary: int
) -> Model:
    """A llama from its shapes alone, as Hugging Face stores it in bf16."""
    config = {
        "model_type": "llama",
        "num_key_value_heads": kv_heads,
        "num_attention_heads": heads,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": num_blocks,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }
    kv = hidden // heads * kv_heads
    block = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{i}.{name}.weight": shape
        for i in range(num_blocks)
        for name, shape in block.items()
    }
    shapes |= {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    entries = {
        name: TensorEntry(
            name=name,
            dtype="BF16",
            shape=shape,
            file=Path("x"),
            offset=0,
            num_bytes=2 * math.prod(shape),
        )
        for name, shape in shapes.items()
    }
    return find_family(config).describe(config, entries, f"llama-{num_blocks}")


def llama_405b() -> Model:
    """126 layers of width 16,384, as the published config has them."""
    return describe_llama(
        num_blocks=126, hidden=16384, inner=53248, heads=128, kv_heads=8, vocabulary=128256
    )


def mix_servers(num_servers: int, seed: int = 0) -> Cluster:
    """A server on each of as many machines, no two of which are alike."""
    rng = random.Random(seed)
    hosts = []
    for i in range(num_servers):
        cores, speed = rng.choice([8, 16, 32, 64]), rng.uniform(0.5, 2.0)
        cache = cores * MIB * rng.choice([1, 2, 4])
        one = Curve(x=(cache, 2.0 * cache), y=(7e10 * speed, 2.5e10 * speed))
        every = Curve(x=one.x, y=(cores * 7e10 * speed, (2.5e10 + 8e9 * cores) * speed))
        rates = {
            precision: Rates(
                one_core_macs_per_s=Curve(x=(1.0, 128.0), y=(6e9 * k * speed, 32e9 * speed)),
                all_cores_macs_per_s=Curve(
                    x=(1.0, 128.0), y=(6e9 * k * cores * speed, 32e9 * cores * speed)
                ),
            )
            for precision, k in (("fp32", 1), ("bf16", 1.5), ("int8", 2), ("int4", 2.5))
        }
        hosts.append(
            Host(
                name=f"h{i}",
                cores=cores,
                memory_bytes=rng.choice([32, 48, 64, 96]) * GIB,
                one_core_bytes_per_s=one,
                all_cores_bytes_per_s=every,
                rates=rates,
                call_overhead_s=150e-6,
                layer_overhead_s=100e-6,
                cache_bytes=cache,
            )
        )
    servers = tuple(
        Server(
            name=f"s{i}",
            host=host.name,
            threads=host.cores,
            memory_bytes=host.memory_bytes * 9 // 10,
        )
        for i, host in enumerate(hosts)
    )
    link = LinkSpeed(bandwidth_bytes_per_s=1.25e9, round_trip_s=50e-6)
    return Cluster(hosts=tuple(hosts), servers=servers, default_link=link)
