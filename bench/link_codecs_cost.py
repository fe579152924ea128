"""Microseconds to pack and unpack, by codec and shape, beside copying the same float32."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from partwise.remote.codecs import CODECS, make_codec, packed_bytes

ROWS, WIDTHS = (1, 16, 512), (576, 4096)
MIN_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one tensor costs with one codec; ``copy_us`` is a plain copy of it."""

    codec: str
    num_rows: int
    width: int
    pack_us: float
    unpack_us: float
    copy_us: float

    @property
    def pack_gb_per_s(self) -> float:
        """Of float32 that is packed."""
        return 4e-3 * self.num_rows * self.width / self.pack_us


def measure_costs() -> list[Cost]:
    """Every codec at every shape."""
    return [_measure(codec, n, width) for codec in CODECS for width in WIDTHS for n in ROWS]


def _measure(name: str, num_rows: int, width: int) -> Cost:
    values = np.random.default_rng(0).standard_normal((num_rows, width)).astype(np.float32)
    back = np.empty_like(values)
    packed = np.empty(packed_bytes(name, values.shape), np.uint8)
    codec = make_codec(name)
    assert codec is not None
    return Cost(
        codec=name,
        num_rows=num_rows,
        width=width,
        pack_us=_time_us(lambda: codec.pack(values, packed)),
        unpack_us=_time_us(lambda: codec.unpack(packed, back)),
        copy_us=_time_us(lambda: np.copyto(back, values)),
    )


def _time_us(call: Callable[[], None]) -> float:
    """The median of calls in a row."""
    times: list[float] = []
    stop_s = time.perf_counter() + MIN_S
    while time.perf_counter() < stop_s or len(times) < 5:
        start_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_s)
    return 1e6 * statistics.median(times)
