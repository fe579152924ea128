"""What members add to the hidden state together is what one adds that holds all neurons."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from partwise.part.torch.halves import AbsentHalf, Summed
from support.exchange import ThreadExchange, join_threads, run_members

NUM_TOKENS, WIDTH, NUM_NEURONS = 5, 6, 8


class Weighed(nn.Module):
    """A module of two inputs, without a bias."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, inputs: Tensor, factor: Tensor) -> Tensor:
        return factor * (inputs @ self.weight)


def make_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return linear


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_pair", [True, False])
def test_a_linear_layer_cut_along_its_inputs_is_whole_again(has_bias: bool, is_pair: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(WIDTH, NUM_NEURONS), torch.randn(WIDTH) if has_bias else None
    inputs = torch.randn(1, NUM_TOKENS, NUM_NEURONS)
    exchanges = join_threads(3)

    def compute(member: int) -> Tensor:
        with torch.inference_mode():
            if member == 2:
                absent = AbsentHalf(exchanges[2], bias, is_pair=is_pair)
                result = absent(hidden_states=inputs[:, :, :WIDTH], rows=[])
                return result[0] if is_pair else result
            own = slice(0, 3) if member == 0 else slice(3, NUM_NEURONS)
            end = Summed(make_linear(weight[:, own], bias), exchanges[member])
            return end(inputs[:, :, own])

    found = run_members(compute, 3)
    expected = make_linear(weight, bias)(inputs)
    torch.testing.assert_close(found[0], expected)
    assert all(torch.equal(found[0], other) for other in found)


def test_a_half_may_end_in_any_module() -> None:
    torch.manual_seed(0)
    inputs, factor = torch.randn(NUM_TOKENS, WIDTH), torch.randn(NUM_TOKENS, 1)
    weights = torch.randn(2, WIDTH, WIDTH)

    def compute(exchange: ThreadExchange) -> Tensor:
        with torch.inference_mode():
            return Summed(Weighed(weights[exchange.index]), exchange)(inputs, factor)

    exchanges = join_threads(2)
    found = run_members(lambda member: compute(exchanges[member]), 2)
    torch.testing.assert_close(found[0], factor * (inputs @ weights.sum(0)))
    assert torch.equal(*found)
