"""Activations and temporary buffers of a decoder block, worked out from the shapes of its graph,
with and without fusion: the layer-wise seed's "buffer minimisation".

Counted are the tensors that are alive at a time between two operations, the block's input and
output among them; weights and KV caches are not. Every operation makes a new tensor. What a
runner really allocates is measured elsewhere; see `partwise.part.torch.buffers`.

Sizes: N tokens of a pass, T tokens of the sequence so far and new, H hidden, Q all query heads,
K all key heads, A query heads, M MLP units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FP32_BYTES = 4
FLASH_QUERIES, FLASH_KEYS = 32, 512
"""The tile of scores that fused attention keeps. Source: torch, FlashAttentionKernel.cpp, for
fewer than 192 queries."""
CLAIMED_SAVING = 0.8
"""The layer-wise seed: "Buffer Minimization: Operator fusion (80% reduction)"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSizes:
    """Widths of a block with a gated MLP, and the pass it computes. ``past_tokens`` come before
    the ``tokens`` of the pass."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    tokens: int
    past_tokens: int = 0

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Makes tensor ``output`` of ``elements`` from ``inputs``; ``scratch`` more elements are alive
    while it runs."""

    output: str
    elements: int
    inputs: tuple[str, ...]
    scratch: int = 0


def read_sizes(config: Mapping[str, object], tokens: int, past_tokens: int) -> BlockSizes | None:
    """The sizes that config.json names; None for a family whose blocks are of another kind."""
    keys = ("hidden_size", "num_attention_heads", "intermediate_size")
    hidden, heads, mlp = (config.get(key) for key in keys)
    if not (isinstance(hidden, int) and isinstance(heads, int) and isinstance(mlp, int)):
        return None
    kv_heads = config.get("num_key_value_heads") or heads
    head_size = config.get("head_dim") or hidden // heads
    assert isinstance(kv_heads, int)
    assert isinstance(head_size, int)
    return BlockSizes(
        hidden=hidden, heads=heads, kv_heads=kv_heads, head_size=head_size, mlp=mlp,
        tokens=tokens, past_tokens=past_tokens,
    )  # fmt: skip


def peak_bytes(operations: Sequence[Operation], given: Mapping[str, int]) -> int:
    """The most bytes alive at a time; ``given`` tensors (elements) are there before. A tensor
    dies after its last use; the last output does not."""
    last_use = {name: i for i, op in enumerate(operations) for name in op.inputs}
    last_use[operations[-1].output] = len(operations)
    alive = dict(given)
    peak = sum(alive.values())
    for i, operation in enumerate(operations):
        alive[operation.output] = operation.elements
        peak = max(peak, sum(alive.values()) + operation.scratch)
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > i}
    return peak * FP32_BYTES


def unfused_peak_bytes(sizes: BlockSizes) -> int:
    """Of a block whose every arithmetic step is an operation of its own."""
    return peak_bytes(list(_unfused(sizes)), {"input": sizes.tokens * sizes.hidden})


def fused_peak_bytes(sizes: BlockSizes) -> int:
    """Of a block whose norms, rotary attention, and activation are one operation each, and whose
    residual sums happen inside norms and in place."""
    return peak_bytes(list(_fused(sizes)), {"input": sizes.tokens * sizes.hidden})


def _fused(s: BlockSizes) -> Iterator[Operation]:
    rows = s.tokens * s.hidden
    query, key, mlp = s.tokens * s.query_width, s.tokens * s.key_width, s.tokens * s.mlp
    yield Operation(output="normed", elements=rows, inputs=("input",))
    yield Operation(output="qkv", elements=query + 2 * key, inputs=("normed",))
    tile = FLASH_QUERIES * (min(FLASH_KEYS, s.tokens + s.past_tokens) + s.head_size + 2)
    yield Operation(output="mixed", elements=query, inputs=("qkv",), scratch=tile)
    yield Operation(output="attended", elements=rows, inputs=("mixed",))
    # The sum overwrites the input; its norm is the other output.
    yield Operation(output="normed2", elements=rows, inputs=("input", "attended"))
    yield Operation(output="gate", elements=mlp, inputs=("normed2",))
    yield Operation(output="up", elements=mlp, inputs=("normed2",))
    yield Operation(output="active", elements=0, inputs=("gate", "up"))  # overwrites the gate
    yield Operation(output="output", elements=rows, inputs=("active", "gate", "input"))


def _unfused(s: BlockSizes) -> Iterator[Operation]:
    rows = s.tokens * s.hidden
    query, mlp = s.tokens * s.query_width, s.tokens * s.mlp
    yield from _norm(s, "input", "normed")
    for name, width in (("q", s.query_width), ("k", s.key_width), ("v", s.key_width)):
        yield Operation(output=name, elements=s.tokens * width, inputs=("normed",))
    for name, width in (("q", s.query_width), ("k", s.key_width)):
        yield from _rotary(s.tokens * width, name)
    total = s.tokens + s.past_tokens
    for name in ("k_turned", "v"):  # keys and values once for each query head
        yield Operation(output=f"{name}s", elements=total * s.query_width, inputs=(name,))
    scores = s.heads * s.tokens * total
    yield Operation(output="scores", elements=scores, inputs=("q_turned", "k_turneds"))
    yield Operation(output="scaled", elements=scores, inputs=("scores",))
    yield Operation(output="masked", elements=scores, inputs=("scaled",))
    yield Operation(output="weights", elements=scores, inputs=("masked",))
    yield Operation(output="mixed", elements=query, inputs=("weights", "vs"))
    yield Operation(output="rows", elements=query, inputs=("mixed",))
    yield Operation(output="attended", elements=rows, inputs=("rows",))
    yield Operation(output="middle", elements=rows, inputs=("input", "attended"))
    yield from _norm(s, "middle", "normed2")
    yield Operation(output="gate", elements=mlp, inputs=("normed2",))
    yield Operation(output="silu", elements=mlp, inputs=("gate",))
    yield Operation(output="up", elements=mlp, inputs=("normed2",))
    yield Operation(output="active", elements=mlp, inputs=("silu", "up"))
    yield Operation(output="down", elements=rows, inputs=("active",))
    yield Operation(output="output", elements=rows, inputs=("middle", "down"))


def _norm(s: BlockSizes, source: str, output: str) -> Iterator[Operation]:
    rows = s.tokens * s.hidden
    yield Operation(output=f"{output}_squares", elements=rows, inputs=(source,))
    yield Operation(output=f"{output}_mean", elements=s.tokens, inputs=(f"{output}_squares",))
    yield Operation(output=f"{output}_root", elements=s.tokens, inputs=(f"{output}_mean",))
    yield Operation(output=f"{output}_scaled", elements=rows, inputs=(source, f"{output}_root"))
    yield Operation(output=output, elements=rows, inputs=(f"{output}_scaled",))


def _rotary(elements: int, name: str) -> Iterator[Operation]:
    yield Operation(output=f"{name}_negative", elements=elements // 2, inputs=(name,))
    yield Operation(output=f"{name}_half", elements=elements, inputs=(name, f"{name}_negative"))
    yield Operation(output=f"{name}_cosine", elements=elements, inputs=(name,))
    yield Operation(output=f"{name}_sine", elements=elements, inputs=(f"{name}_half",))
    turned = (f"{name}_cosine", f"{name}_sine")
    yield Operation(output=f"{name}_turned", elements=elements, inputs=turned)
