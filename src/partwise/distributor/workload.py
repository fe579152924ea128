"""What a plan is made for: how many streams, how long, how precise, inference or training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from partwise.distributor.plan import MAX_MLP_SPARSITY, Part
from partwise.errors import PlanError

ELEMENT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5625}
"""Bytes of one weight by precision. int4 is in blocks of 32 with a 2-byte scale each; the one
scale an output channel of int8 is too little to count."""

KV_ELEMENT_BYTES = {"bf16": 2}
"""Bytes of one element of the KV cache, where they are not 4: it is fp32 at every other precision
of the weights."""

MAX_COUNT = 1 << 30
"""Of streams, sequences and tokens: so that what is worked out of them stays below 2^63 bytes."""


def kv_element_bytes(precision: str) -> int:
    """Bytes of one element of the KV cache of a part at ``precision``."""
    return KV_ELEMENT_BYTES.get(precision, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How a deployment will be used.

    ``streams`` decode at a time; each server holds the KV cache of ``sequences`` (or of the
    streams, where they are more) of ``context_tokens`` each. A prompt is read in chunks of
    ``prefill_tokens``. In training, ``sequences`` of ``context_tokens`` are one microbatch.
    Layers are at ``precision``, with the share ``mlp_sparsity`` of their MLP units removed,
    where a part says nothing else.
    """

    streams: int = 1
    context_tokens: int = 4096
    sequences: int = 1
    prefill_tokens: int = 128
    precision: str = "fp32"
    mlp_sparsity: float = 0.0
    is_training: bool = False
    has_checkpointing: bool = False

    def __post_init__(self) -> None:
        for key in ("streams", "context_tokens", "sequences", "prefill_tokens"):
            value = getattr(self, key)
            if value < 1:
                raise PlanError(f"{key} is {value}, it must be at least 1: give 1 or more")
            if value > MAX_COUNT:
                raise PlanError(f"{key} is {value}, it may be {MAX_COUNT:,} at most: give less")
        if self.precision not in ELEMENT_BYTES:
            raise PlanError(
                f"the precision {self.precision!r} is not known: give one of"
                f" {', '.join(ELEMENT_BYTES)}"
            )
        if not 0 <= self.mlp_sparsity <= MAX_MLP_SPARSITY:
            raise PlanError(
                f"mlp_sparsity is {self.mlp_sparsity}, it must be 0 to {MAX_MLP_SPARSITY}: remove"
                " fewer MLP units"
            )

    @property
    def element_bytes(self) -> float:
        """Bytes of one weight."""
        return ELEMENT_BYTES[self.precision]

    @property
    def kv_element_bytes(self) -> int:
        """Bytes of one element of the KV cache."""
        return kv_element_bytes(self.precision)

    @property
    def num_caches(self) -> int:
        """KV caches that a server holds."""
        return max(self.sequences, self.streams)

    @property
    def num_passes(self) -> int:
        """Times that the layers are computed for a token: in training forwards, for the
        gradient of the input and for that of the weights; a checkpointed layer once more."""
        return self.num_forwards + 2 if self.is_training else 1

    @property
    def num_forwards(self) -> int:
        """Of `num_passes` those forwards: a checkpointed layer computes its own again."""
        return 1 + (self.is_training and self.has_checkpointing)

    def count_in_flight(self, stage: int, num_stages: int) -> int:
        """Microbatches whose activations a stage keeps at once in training: 1F1B, the schedule
        in which a stage goes back with one as soon as it can. The last keeps 1, each before it
        1 more, none more than there are ``streams``. In inference: 1, which keeps none."""
        return min(self.streams, num_stages - stage) if self.is_training else 1

    @property
    def num_transfers(self) -> int:
        """Times that a cut is crossed: in training back too."""
        return 2 if self.is_training else 1

    def reduced_as(self, part: Part) -> Workload:
        """The same with layers reduced as those of ``part``."""
        if (part.precision, part.mlp_sparsity) == (self.precision, self.mlp_sparsity):
            return self
        return replace(self, precision=part.precision, mlp_sparsity=part.mlp_sparsity)
