"""The tables of rotary positions: cosines and sines of each position up to the context.

Computed in fp32 in the order of transformers' own, so that the angles of far positions round
alike. Source: transformers, modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def rotary_tables(
    config: Mapping[str, Any], head_size: int, context_tokens: int
) -> tuple[Floats, Floats]:
    """Cosines and sines, (context, rotated / 2) each, scaled as the config says."""
    rope = _read_rope(config)
    frequencies, scale = _FREQUENCIES[rope["rope_type"]](rope, config, _width(rope, head_size))
    angles = np.arange(context_tokens, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles) * np.float32(scale), np.sin(angles) * np.float32(scale)


def _width(rope: Mapping[str, Any], head_size: int) -> int:
    return int(head_size * rope["partial_rotary_factor"])


def _read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rope parameters as transformers 5 names them, from any config that it reads."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = dict(given)
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    rope.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    rope.setdefault("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0)
    return rope


Found = tuple[Floats, float]


def _default(rope: Mapping[str, Any], config: Mapping[str, Any], width: int) -> Found:
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    # torch's powers are fp32's nearest; numpy's are up to two off, which turns a token at position
    # 512 by 1.5e-5 more or less.
    powers = (rope["rope_theta"] ** exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1.0) / powers, 1.0


def _linear(rope: Mapping[str, Any], config: Mapping[str, Any], width: int) -> Found:
    return _default(rope, config, width)[0] / np.float32(rope["factor"]), 1.0


def _llama3(rope: Mapping[str, Any], config: Mapping[str, Any], width: int) -> Found:
    plain = _default(rope, config, width)[0]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    wavelengths = (2 * math.pi / plain).astype(np.float32)
    slow = np.where(wavelengths > original / low, plain / np.float32(rope["factor"]), plain)
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * slow / rope["factor"] + smooth * slow
    is_medium = (wavelengths >= original / high) & (wavelengths <= original / low)
    return np.where(is_medium, blended, slow).astype(np.float32), 1.0


def _yarn(rope: Mapping[str, Any], config: Mapping[str, Any], width: int) -> Found:
    factor = rope["factor"]
    original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
    plain = _default(rope, config, width)[0]
    first, last = _yarn_range(rope, width, original)
    ramp = (np.arange(width // 2, dtype=np.float32) - first) / (last - first)
    kept = 1 - np.clip(ramp, 0, 1)
    mixed = plain / np.float32(factor) * (1 - kept) + plain * kept
    return mixed.astype(np.float32), _yarn_scale(rope, factor)


def _yarn_range(rope: Mapping[str, Any], width: int, original: int) -> tuple[float, float]:
    """Between which dimensions frequencies go over from interpolated to plain."""

    def dimension(rotations: float) -> float:
        turns = math.log(original / (rotations * 2 * math.pi))
        return width * turns / (2 * math.log(rope["rope_theta"]))

    first, last = dimension(rope.get("beta_fast") or 32), dimension(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    return first, last + 0.001 if first == last else last


def _yarn_scale(rope: Mapping[str, Any], factor: float) -> float:
    """What cosines and sines are multiplied by."""
    given = rope.get("attention_factor")
    if given is not None:
        return float(given)

    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale(1)


_FREQUENCIES = {
    "default": _default,
    # Up to the model's context, beyond which nothing runs here, it is the default.
    "dynamic": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
