"""int8 per token: each row by its own scale, symmetric around zero; its largest values exact.

A few channels of a hidden state are 30 to 6,000 times as large as most (SmolLM2: 117 in an
ordinary row whose median is 3.5, 20,000 in the first row). Scaled by them the rest of a row
rounds to nearly nothing; with four of them apart the loss falls to a hundredth
(docs/decisions/0040).

Packed: the scales of all rows (float32), their exact values (float32) and where those stand
(unsigned), then the rows (int8).
"""

from __future__ import annotations

from typing import ClassVar, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from partwise.remote.codecs.codec import Bytes, Codec, Floats

NUM_EXACT: Final = 4
STEPS: Final = np.float32(127)
TINY: Final = np.float32(2.0**-100)
"""Rows whose largest magnitude is below it share its scale: 127 over less might be infinite."""
_SHORT: Final[np.dtype[np.unsignedinteger]] = np.dtype(np.uint16)
_LONG: Final[np.dtype[np.unsignedinteger]] = np.dtype(np.uint32)
MAX_FLOAT32: Final = float(np.finfo(np.float32).max)


@final
class Int8(Codec):
    """A quarter of the bytes and 28 a row. The NUM_EXACT largest values of a row are exact, the
    others off by at most 1/254 of the largest of them."""

    NAME: ClassVar[str] = "int8"

    @staticmethod
    def packed_bytes(num_rows: int, width: int) -> int:
        return num_rows * (4 + _num_exact(width) * (4 + _place_type(width).itemsize) + width)

    def _pack_rows(self, values_NW: Floats, packed: Bytes) -> None:
        into = _Sections.of(packed, values_NW.shape)
        for rows, values_BW, scratch_BW in self._blocks(values_NW):
            places_BK = into.places[rows]
            index_B = np.arange(len(values_BW))
            peaks_B = self._find_peaks(values_BW, scratch_BW, MAX_FLOAT32)
            for k in range(places_BK.shape[1]):
                places_BK[:, k] = place_B = scratch_BW.argmax(1)
                into.exact[rows, k] = values_BW[index_B, place_B]
                scratch_BW[index_B, place_B] = 0
            peaks_B = np.maximum(scratch_BW.max(1), TINY)
            np.divide(peaks_B, STEPS, out=into.scales[rows])
            np.divide(STEPS, peaks_B, out=peaks_B)
            with np.errstate(over="ignore"):  # of what is exact, and set to 0 next
                np.multiply(values_BW, peaks_B[:, None], out=scratch_BW)
            scratch_BW[index_B[:, None], places_BK] = 0
            np.rint(scratch_BW, out=scratch_BW)
            np.copyto(into.units[rows], scratch_BW, casting="unsafe")

    def _unpack_rows(self, packed: Bytes, values_NW: Floats) -> None:
        sections = _Sections.of(packed, values_NW.shape)
        np.multiply(sections.units, sections.scales[:, None], out=values_NW)
        # What came from outside may point beyond the row.
        places_NK = np.minimum(sections.places, values_NW.shape[1] - 1)
        values_NW[np.arange(len(values_NW))[:, None], places_NK] = sections.exact


class _Sections(NamedTuple):
    """Views of what is packed: (N), (N, K), (N, K) with K exact values, (N, W)."""

    scales: Floats
    exact: Floats
    places: npt.NDArray[np.unsignedinteger]
    units: npt.NDArray[np.int8]

    @classmethod
    def of(cls, packed: Bytes, shape: tuple[int, ...]) -> _Sections:
        """The sections of ``packed`` rows of ``shape``."""
        num_rows, width = shape
        num_exact, place = _num_exact(width), _place_type(width)
        first = 4 * num_rows
        second = first + 4 * num_rows * num_exact
        third = second + place.itemsize * num_rows * num_exact
        return cls(
            packed[:first].view(np.float32),
            packed[first:second].view(np.float32).reshape(num_rows, num_exact),
            packed[second:third].view(place).reshape(num_rows, num_exact),
            packed[third:].view(np.int8).reshape(shape),
        )


def _num_exact(width: int) -> int:
    return min(NUM_EXACT, width)


def _place_type(width: int) -> np.dtype[np.unsignedinteger]:
    return _SHORT if width <= 1 << 16 else _LONG
