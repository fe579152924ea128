"""float16, rounded to nearest, ties to even. Numbers beyond its range are refused."""

from __future__ import annotations

from typing import ClassVar, Final, final

import numpy as np

from partwise.remote.codecs.codec import Bytes, Codec, Floats

MAX_FP16: Final = 65_519.99609375
"""The largest float32 that does not round to infinity (65,520 is the first that does)."""


@final
class Fp16(Codec):
    """Half the bytes; 11 bits of mantissa, so an error of at most 2^-11 of the value (2^-25 near
    zero), up to 65,504."""

    NAME: ClassVar[str] = "fp16"

    @staticmethod
    def packed_bytes(num_rows: int, width: int) -> int:
        return 2 * num_rows * width

    def _pack_rows(self, values_NW: Floats, packed: Bytes) -> None:
        halves_NW = packed.view(np.float16).reshape(values_NW.shape)
        for rows, values_BW, scratch_BW in self._blocks(values_NW):
            self._find_peaks(values_BW, scratch_BW, MAX_FP16)
            np.copyto(halves_NW[rows], values_BW, casting="same_kind")

    def _unpack_rows(self, packed: Bytes, values_NW: Floats) -> None:
        np.copyto(values_NW, packed.view(np.float16).reshape(values_NW.shape))
