from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from partwise.part.torch.linear import (
    NARROW_ROWS,
    NARROW_WIDTH,
    WIDE_ROWS,
    FewRowsLinear,
    with_few_rows_linear,
)

WIDTHS = ((8, NARROW_ROWS), (NARROW_WIDTH + 8, WIDE_ROWS))


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
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-4)


def test_many_rows_are_the_plain_product_bit_for_bit() -> None:
    torch.manual_seed(0)
    layer, rows = FewRowsLinear(96, 48), torch.randn(1, 128, 96)
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


@pytest.mark.parametrize(("width", "few_rows"), WIDTHS)
def test_only_few_rows_take_the_other_product(
    width: int, few_rows: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: list[int] = []

    def note(rows: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
        plain.append(rows.shape[1])
        return linear(rows, *operands)

    monkeypatch.setattr("partwise.part.torch.linear.linear", note)
    layer = FewRowsLinear(width, 4)
    for num_rows in range(1, 8):
        layer(torch.randn(1, num_rows, width))
    assert plain == [n for n in range(1, 8) if not few_rows[0] <= n <= few_rows[1]]


@pytest.mark.parametrize("width", [width for width, _ in WIDTHS])
def test_no_row_depends_on_the_others(width: int) -> None:
    torch.manual_seed(0)
    layer, rows = FewRowsLinear(width, 6), torch.randn(3, width)
    changed = rows.clone()
    changed[1] += 1
    with torch.inference_mode():
        before, after = layer(rows), layer(changed)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def _double(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.double()
