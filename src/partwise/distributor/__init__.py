"""Which server holds what: the plan, the strategies that make one, and its verifier.

Pure: planning needs neither weights nor a network.
"""

from __future__ import annotations

from partwise.distributor.balanced import balance_layers
from partwise.distributor.holding import Holding, measure_holding
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Plan, decode_plan, encode_plan, read_plan
from partwise.distributor.runners import (
    NO_WISH,
    RunnerChoice,
    RunnerWish,
    check_runners,
    choose_runner,
)
from partwise.distributor.verify import verify_plan
from partwise.distributor.whole import check_whole

__all__ = [
    "NO_WISH",
    "Holding",
    "Plan",
    "RunnerChoice",
    "RunnerWish",
    "balance_layers",
    "check_runners",
    "check_whole",
    "choose_runner",
    "decode_plan",
    "encode_plan",
    "measure_holding",
    "place_parameters",
    "read_plan",
    "verify_plan",
]
