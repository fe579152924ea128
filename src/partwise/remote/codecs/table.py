"""The codecs by name. fp32 is none of them: such tensors travel as they are, without a copy."""

from __future__ import annotations

import math

from partwise.errors import FrameError
from partwise.remote.codecs.bf16 import Bf16
from partwise.remote.codecs.codec import Codec
from partwise.remote.codecs.fp16 import Fp16
from partwise.remote.codecs.int8 import Int8

CODECS: dict[str, type[Codec]] = {codec.NAME: codec for codec in (Bf16, Fp16, Int8)}


def make_codec(name: str) -> Codec | None:
    """The codec of that name, with scratch memory of its own; None for fp32.

    Raises:
        FrameError: there is none.
    """
    return None if name == "fp32" else find_codec(name)()


def find_codec(name: str) -> type[Codec]:
    """The codec of that name.

    Raises:
        FrameError: there is none, or it is fp32, which packs nothing.
    """
    if name not in CODECS:
        raise FrameError(
            f"the codec {name!r} is not known here, only {', '.join(CODECS)}: is the other side a"
            " newer partwise?"
        )
    return CODECS[name]


def packed_bytes(name: str, shape: tuple[int, ...]) -> int:
    """What a tensor of ``shape`` takes, packed by the codec of that name.

    Raises:
        FrameError: there is no such codec, or the tensor has no rows.
    """
    codec = find_codec(name)
    if not shape:
        raise FrameError(f"a tensor without dimensions cannot travel as {name}")
    return codec.packed_bytes(math.prod(shape[:-1]), shape[-1]) if math.prod(shape) else 0
