"""A token table over several members is one table."""

from __future__ import annotations

import torch

from partwise.part.torch.vocabulary import OwnedTable
from partwise.registry.gathers import list_ids
from support.exchange import join_threads, run_members
from support.plans import find_ranges


def test_rows_are_looked_up_bit_for_bit() -> None:
    torch.manual_seed(0)
    table = torch.randn(9, 5)
    owner_of = [0, 2, 0, 0, 2, 2, 0, 2, 2]  # member 1 owns none
    asked = torch.tensor([8, 0, 3, 3, 1])
    exchanges = join_threads(3)

    def look_up(member: int) -> torch.Tensor:
        ranges = find_ranges(owner_of, member)
        own = OwnedTable(ranges, (9, 5), exchanges[member])
        own.load_state_dict({"weight": table[list_ids(ranges)]})
        with torch.inference_mode():
            return own(asked)

    for found in run_members(look_up, 3):
        assert torch.equal(found, table[asked])
