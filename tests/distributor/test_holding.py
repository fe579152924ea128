"""What a part holds, in bytes."""

from __future__ import annotations

import pytest

from partwise.distributor import balance_layers, holding, measure_holding
from partwise.model import Model


def test_weights_of_half_a_byte_are_rounded_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = balance_layers(model, ["a"])
    whole = measure_holding(plan, model, "part0")
    monkeypatch.setattr(holding, "PRECISION_BYTES", {"fp32": 0.5})
    half = measure_holding(plan, model, "part0")
    assert half.weight_bytes == whole.weight_bytes // 8 > 0
    assert half.read_bytes_per_token == whole.read_bytes_per_token // 8 > 0
    assert half.kv_bytes_per_token == whole.kv_bytes_per_token
    assert all(isinstance(n, int) for n in (half.weight_bytes, half.read_bytes_per_token))
