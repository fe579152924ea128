"""The operators of decoder blocks, with and without fusion, and what is alive between them: the
layer-wise seed's "buffer minimisation".

Counted are activations and the temporary buffers of kernels; weights, KV caches, and the int8
copy that a product with rounded weights makes of its inputs are not. What parts make of it is in
`buffers.py`; what a block really allocates is measured in `partwise.part.torch.buffers` and
`tests/part/onnx/test_buffers.py`.

Sizes: N tokens of a pass, T tokens of the sequence so far and new, H hidden, Q all query heads,
K all key heads, A query heads, M MLP units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FP32_BYTES = 4
FLASH_QUERIES, FLASH_KEYS = 32, 512
"""The tile of scores that fused attention keeps. Source: torch, FlashAttentionKernel.cpp, for
fewer than 192 queries; ONNX Runtime's is as small."""
CLAIMED_SAVING = 0.8
"""The layer-wise seed: "Buffer Minimization: Operator fusion (80% reduction)"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSizes:
    """Widths of a block, or of a member's share of one, and the pass it computes. ``past_tokens``
    come before the ``tokens`` of the pass."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    tokens: int
    past_tokens: int = 0
    is_gated: bool = True

    @property
    def rows(self) -> int:
        """Elements of a hidden state."""
        return self.tokens * self.hidden

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


def peak_bytes(operations: Sequence[Operation], given: Mapping[str, int]) -> int:
    """The most bytes alive at a time; ``given`` tensors (elements) are there before. A tensor
    dies after its last use; the last output does not."""
    last_use = find_last_uses(operations)
    alive = dict(given)
    peak = sum(alive.values())
    for i, operation in enumerate(operations):
        alive[operation.output] = operation.elements
        peak = max(peak, sum(alive.values()) + operation.scratch)
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > i}
    return peak * FP32_BYTES


def held_bytes(operations: Sequence[Operation], given: Mapping[str, int]) -> int:
    """The most bytes held at a time as ONNX Runtime plans buffers: a tensor takes over the buffer
    of one of its size that is dead, which is therefore held between the two. ``given`` tensors
    are somebody else's, held all the time and reused by none."""
    last_use = find_last_uses(operations)
    buffers: list[tuple[int, int, int]] = []  # elements, first and last operation
    for i, operation in enumerate(operations):
        end = last_use.get(operation.output, i)
        free = (n for n, one in enumerate(buffers) if one[0] == operation.elements and one[2] < i)
        if (found := next(free, None)) is None:
            buffers.append((operation.elements, i, end))
        else:
            buffers[found] = (operation.elements, buffers[found][1], end)
    return FP32_BYTES * max(
        sum(given.values())
        + operation.scratch
        + sum(elements for elements, start, end in buffers if start <= i <= end)
        for i, operation in enumerate(operations)
    )


def find_last_uses(operations: Sequence[Operation]) -> dict[str, int]:
    """For each tensor the last operation that reads it; the last output is kept."""
    last_use = {name: i for i, op in enumerate(operations) for name in op.inputs}
    last_use[operations[-1].output] = len(operations)
    return last_use


def unfused_peak_bytes(sizes: BlockSizes) -> int:
    """Of a block whose every arithmetic step is an operation of its own."""
    return peak_bytes(list_unfused(sizes), {"input": sizes.rows})


def fused_peak_bytes(sizes: BlockSizes) -> int:
    """Of a block as the onnx runner computes it."""
    return peak_bytes(list_fused(sizes), {"input": sizes.rows})


def list_fused(s: BlockSizes, num_blocks: int = 1) -> list[Operation]:
    """Blocks whose norms, rotary attention and activation are one operation each, and whose
    residual sums happen inside norms; from "input" to "output"."""
    listed: list[Operation] = []
    residual: tuple[str, ...] = ("input",)
    query, qkv = s.tokens * s.query_width, s.tokens * (s.query_width + 2 * s.key_width)
    # Attention turns heads and tokens round, then rotates into another copy.
    keys = min(FLASH_KEYS, s.tokens + s.past_tokens)
    tile = min(FLASH_QUERIES, s.tokens) * (keys + s.head_size + 2)
    for b in range(num_blocks):
        residual = _sum_and_norm(s, listed, residual, f"{b}.first")
        listed += [
            Operation(output=f"{b}.qkv", elements=qkv, inputs=(f"{b}.first.normed",)),
            Operation(
                output=f"{b}.mixed", elements=query, inputs=(f"{b}.qkv",), scratch=2 * qkv + tile
            ),
            Operation(output=f"{b}.attended", elements=s.rows, inputs=(f"{b}.mixed",)),
        ]
        residual = _sum_and_norm(s, listed, (*residual, f"{b}.attended"), f"{b}.second")
        product = _fused_mlp(s, listed, b)
        listed.append(Operation(output=f"{b}.down", elements=s.rows, inputs=(product,)))
        residual = (*residual, f"{b}.down")
    return [*listed, Operation(output="output", elements=s.rows, inputs=residual)]


def _sum_and_norm(
    s: BlockSizes, listed: list[Operation], residual: tuple[str, ...], name: str
) -> tuple[str, ...]:
    """One operation with two results, the first of which is the residual from then on."""
    if len(residual) > 1:
        listed.append(Operation(output=f"{name}.sum", elements=s.rows, inputs=residual))
        read, residual = (*residual, f"{name}.sum"), (f"{name}.sum",)
    else:
        read = residual
    listed.append(Operation(output=f"{name}.normed", elements=s.rows, inputs=read))
    return residual


def _fused_mlp(s: BlockSizes, listed: list[Operation], b: int) -> str:
    """Up to what goes down; its name. A gate is activated into a buffer of its own, which the
    product with ``up`` overwrites."""
    mlp, normed = s.tokens * s.mlp, f"{b}.second.normed"
    if not s.is_gated:
        listed.append(Operation(output=f"{b}.up", elements=mlp, inputs=(normed,)))
        listed.append(Operation(output=f"{b}.active", elements=mlp, inputs=(f"{b}.up",)))
        return f"{b}.active"
    listed += [
        Operation(output=f"{b}.gate", elements=mlp, inputs=(normed,)),
        Operation(output=f"{b}.up", elements=mlp, inputs=(normed,)),
        Operation(output=f"{b}.active", elements=mlp, inputs=(f"{b}.gate", f"{b}.up")),
    ]
    return f"{b}.active"


def list_unfused(s: BlockSizes, num_blocks: int = 1) -> list[Operation]:
    """The same blocks with every arithmetic step an operation of its own."""
    listed: list[Operation] = []
    value = "input"
    for b in range(num_blocks):
        normed = _norm(s, listed, value, f"{b}.first")
        attended = _unfused_attention(s, listed, normed, b)
        middle = f"{b}.middle"
        listed.append(Operation(output=middle, elements=s.rows, inputs=(value, attended)))
        down = _unfused_mlp(s, listed, _norm(s, listed, middle, f"{b}.second"), b)
        value = "output" if b == num_blocks - 1 else f"{b}.output"
        listed.append(Operation(output=value, elements=s.rows, inputs=(middle, down)))
    return listed


def _unfused_attention(s: BlockSizes, listed: list[Operation], normed: str, b: int) -> str:
    query, total = s.tokens * s.query_width, s.tokens + s.past_tokens
    for name, width in (("q", s.query_width), ("k", s.key_width), ("v", s.key_width)):
        rows, elements = f"{b}.{name}.rows", s.tokens * width
        listed.append(Operation(output=rows, elements=elements, inputs=(normed,)))
        # Head by head instead of token by token.
        listed.append(Operation(output=f"{b}.{name}", elements=elements, inputs=(rows,)))
    for name, width in (("q", s.query_width), ("k", s.key_width)):
        _rotate(listed, s.tokens * width, f"{b}.{name}")
    for name in ("k.turned", "v"):  # keys and values once for each query head
        repeated = total * s.query_width
        listed.append(
            Operation(output=f"{b}.{name}.all", elements=repeated, inputs=(f"{b}.{name}",))
        )
    scores = s.heads * s.tokens * total
    inputs: tuple[str, ...] = (f"{b}.q.turned", f"{b}.k.turned.all")
    for name in ("scores", "scaled", "masked", "weights"):
        listed.append(Operation(output=f"{b}.{name}", elements=scores, inputs=inputs))
        inputs = (f"{b}.{name}",)
    mixed = (f"{b}.weights", f"{b}.v.all")
    listed += [
        Operation(output=f"{b}.mixed", elements=query, inputs=mixed),
        Operation(output=f"{b}.rows", elements=query, inputs=(f"{b}.mixed",)),
        Operation(output=f"{b}.attended", elements=s.rows, inputs=(f"{b}.rows",)),
    ]
    return f"{b}.attended"


def _unfused_mlp(s: BlockSizes, listed: list[Operation], normed: str, b: int) -> str:
    mlp, last = s.tokens * s.mlp, f"{b}.silu"
    listed += [
        Operation(output=f"{b}.gate", elements=mlp, inputs=(normed,)),
        Operation(output=f"{b}.silu", elements=mlp, inputs=(f"{b}.gate",)),
    ]
    if s.is_gated:
        last = f"{b}.product"
        listed += [
            Operation(output=f"{b}.up", elements=mlp, inputs=(normed,)),
            Operation(output=last, elements=mlp, inputs=(f"{b}.silu", f"{b}.up")),
        ]
    listed.append(Operation(output=f"{b}.down", elements=s.rows, inputs=(last,)))
    return f"{b}.down"


def _norm(s: BlockSizes, listed: list[Operation], source: str, name: str) -> str:
    listed += [
        Operation(output=f"{name}.squares", elements=s.rows, inputs=(source,)),
        Operation(output=f"{name}.mean", elements=s.tokens, inputs=(f"{name}.squares",)),
        Operation(output=f"{name}.root", elements=s.tokens, inputs=(f"{name}.mean",)),
        Operation(output=f"{name}.scaled", elements=s.rows, inputs=(source, f"{name}.root")),
        Operation(output=f"{name}.normed", elements=s.rows, inputs=(f"{name}.scaled",)),
    ]
    return f"{name}.normed"


def _rotate(listed: list[Operation], elements: int, name: str) -> None:
    halves, turned = f"{name}.half", (f"{name}.cosine", f"{name}.sine")
    listed += [
        Operation(output=f"{name}.negative", elements=elements // 2, inputs=(name,)),
        Operation(output=halves, elements=elements, inputs=(name, f"{name}.negative")),
        Operation(output=turned[0], elements=elements, inputs=(name,)),
        Operation(output=turned[1], elements=elements, inputs=(halves,)),
        Operation(output=f"{name}.turned", elements=elements, inputs=turned),
    ]
