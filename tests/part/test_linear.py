from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from partwise.part.torch.linear import (
    MAX_FEW_ROWS,
    MIN_FEW_ROWS,
    FewRowsLinear,
    with_few_rows_linear,
)

FEW_ROWS = range(MIN_FEW_ROWS, MAX_FEW_ROWS + 1)


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(1, 6),
    widths=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    has_bias=st.booleans(),
    has_batch=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_number_of_rows_gives_what_the_plain_layer_gives(
    num_rows: int, widths: tuple[int, int], has_bias: bool, has_batch: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = FewRowsLinear(*widths, bias=has_bias)
    shape = (1, num_rows, widths[0]) if has_batch else (num_rows, widths[0])
    rows = torch.randn(shape)
    with torch.inference_mode():
        out = layer(rows)
        expected = linear(rows.double(), layer.weight.double(), _double(layer.bias))
    assert out.shape == expected.shape
    assert out.is_contiguous()
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_rows", [1, MAX_FEW_ROWS + 1, 128])
def test_other_numbers_of_rows_are_the_plain_product_bit_for_bit(num_rows: int) -> None:
    torch.manual_seed(0)
    layer, rows = FewRowsLinear(96, 48), torch.randn(1, num_rows, 96)
    with torch.inference_mode():
        assert torch.equal(layer(rows), linear(rows, layer.weight, layer.bias))


def test_every_linear_layer_is_replaced_on_its_device_and_keeps_its_name() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 2, False)))
    names = list(module.state_dict())
    replaced = with_few_rows_linear(module)
    linears = [m for m in replaced.modules() if isinstance(m, nn.Linear)]
    assert [type(m) for m in linears] == [FewRowsLinear, FewRowsLinear]
    assert [m.weight.device.type for m in linears] == ["meta", "meta"]
    assert list(replaced.state_dict()) == names


def test_a_linear_layer_by_itself_is_replaced_too() -> None:
    assert type(with_few_rows_linear(nn.Linear(4, 6))) is FewRowsLinear


def test_few_rows_take_the_other_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the plain product was taken")

    monkeypatch.setattr("partwise.part.torch.linear.linear", refuse)
    layer = FewRowsLinear(8, 4)
    for num_rows in FEW_ROWS:
        layer(torch.randn(1, num_rows, 8))
    with pytest.raises(AssertionError, match="plain product"):
        layer(torch.randn(1, MAX_FEW_ROWS + 1, 8))


def _double(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.double()
