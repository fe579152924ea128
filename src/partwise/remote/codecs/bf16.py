"""bfloat16: the upper half of a float32, rounded to nearest, ties to even."""

from __future__ import annotations

from typing import ClassVar, Final, final

import numpy as np

from partwise.remote.codecs.codec import Bytes, Codec, Floats

MAX_BF16: Final = float(np.array([0x7F7F_7FFF], np.uint32).view(np.float32)[0])
"""The largest float32 that does not round to infinity."""


@final
class Bf16(Codec):
    """Half the bytes; 8 bits of mantissa, so an error of at most 2^-8 of the value."""

    NAME: ClassVar[str] = "bf16"

    @staticmethod
    def packed_bytes(num_rows: int, width: int) -> int:
        return 2 * num_rows * width

    def _pack_rows(self, values_NW: Floats, packed: Bytes) -> None:
        halves_NW = packed.view(np.uint16).reshape(values_NW.shape)
        for rows, values_BW, scratch_BW in self._blocks(values_NW):
            self._find_peaks(values_BW, scratch_BW, MAX_BF16)
            bits, rounded = values_BW.view(np.uint32), scratch_BW.view(np.uint32)
            # Half of the last place, less one where the place above it is even.
            np.right_shift(bits, 16, out=rounded)
            np.bitwise_and(rounded, 1, out=rounded)
            np.add(rounded, 0x7FFF, out=rounded)
            np.add(rounded, bits, out=rounded)
            np.right_shift(rounded, 16, out=halves_NW[rows], casting="unsafe")

    def _unpack_rows(self, packed: Bytes, values_NW: Floats) -> None:
        halves_NW = packed.view(np.uint16).reshape(values_NW.shape)
        np.left_shift(halves_NW, 16, out=values_NW.view(np.uint32), dtype=np.uint32)
