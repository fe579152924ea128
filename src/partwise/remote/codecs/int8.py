"""int8 per token: each row by its own scale, symmetric around zero.

Packed: the scales of all rows (float32), then the rows (int8).
"""

from __future__ import annotations

from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from partwise.remote.codecs.codec import Bytes, Codec, Floats

STEPS: Final = np.float32(127)
TINY: Final = np.float32(2.0**-100)
"""Rows whose largest magnitude is below it share its scale: 127 over less might be infinite."""
MAX_FLOAT32: Final = float(np.finfo(np.float32).max)


@final
class Int8(Codec):
    """A quarter of the bytes and 4 a row; an error of at most 1/254 of the row's largest
    magnitude, whatever the value: rows with few large values lose most."""

    NAME: ClassVar[str] = "int8"

    @staticmethod
    def packed_bytes(num_rows: int, width: int) -> int:
        return num_rows * (width + 4)

    def _pack_rows(self, values_NW: Floats, packed: Bytes) -> None:
        scales_N, units_NW = _open(packed, values_NW.shape)
        for rows, values_BW, scratch_BW in self._blocks(values_NW):
            peaks_B = self._find_peaks(values_BW, scratch_BW, MAX_FLOAT32)
            np.maximum(peaks_B, TINY, out=peaks_B)
            np.divide(peaks_B, STEPS, out=scales_N[rows])
            np.divide(STEPS, peaks_B, out=peaks_B)
            np.multiply(values_BW, peaks_B[:, None], out=scratch_BW)
            np.rint(scratch_BW, out=scratch_BW)
            np.copyto(units_NW[rows], scratch_BW, casting="unsafe")

    def _unpack_rows(self, packed: Bytes, values_NW: Floats) -> None:
        scales_N, units_NW = _open(packed, values_NW.shape)
        np.multiply(units_NW, scales_N[:, None], out=values_NW)


def _open(packed: Bytes, shape: tuple[int, ...]) -> tuple[Floats, npt.NDArray[np.int8]]:
    """The scales and the rows in ``packed``."""
    scales_bytes = 4 * shape[0]
    scales_N = packed[:scales_bytes].view(np.float32)
    return scales_N, packed[scales_bytes:].view(np.int8).reshape(shape)
