"""Which strategy `partwise plan` runs, and the options that only some strategies have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from partwise.cli.planning.lists import (
    read_granules,
    read_ids,
    read_pairs,
    read_percentages,
    read_types,
)
from partwise.cli.planning.masks import read_masks
from partwise.errors import UsageError

DEFAULT_STRATEGY = "auto"
BY_TIME = ("latency", "throughput", "auto")
"""Strategies that choose stages and members by what they cost."""
FITTING = ("greedy", "balanced", *BY_TIME)
"""Strategies that split or reduce layers which do not fit."""
SHARING = ("count", "percentage", "compute")
"""Strategies that share every kind of neurons by one rule."""


class StrategyOption(NamedTuple):
    """An option that only ``strategies`` have: its name here and theirs, and its reader.

    No ``key``: it is no option there, but part of the problem. ``needed``: an example, where
    they make no plan without it.
    """

    name: str
    key: str
    strategies: tuple[str, ...]
    read: Callable[[Any], Any]
    needed: str = ""

    def get(self, args: argparse.Namespace) -> Any:
        """What was given, unread."""
        return getattr(args, self.name.replace("-", "_"))

    def is_given(self, args: argparse.Namespace) -> bool:
        """Whether it was given, be it empty."""
        return is_given(args, self.name)


def is_given(args: argparse.Namespace, option: str) -> bool:
    """Whether ``option`` was given, be it empty."""
    value = getattr(args, option.replace("-", "_"))
    return value is not None and value is not False


def add_strategy_options(parser: argparse.ArgumentParser) -> None:
    """Declare the strategies' own options."""
    add = parser.add_argument_group("of single strategies").add_argument
    add("--cache-fit", action="store_true", help=f"{', '.join(FITTING)}: within the caches")
    add("--keep-order", action="store_true", help="balanced: servers in the order given")
    add("--percent", metavar="70,30", help="percentage: of each server, or NAME=70,...")
    add("--layers", metavar="NAME=0:10,...", help="layers: the blocks of each server")
    add("--types", metavar="KIND=NAME+NAME,...", help="type: the servers of each kind")
    add(
        "--ids",
        metavar="LAYERS/KIND/NAME=0:3,7",
        action="append",
        help="ids: neurons of a server in LAYERS (a name, 0:4 or *); may be repeated, and where"
        " LAYERS overlap the later entry wins",
    )
    add(
        "--masks",
        metavar="FILE",
        help="connectivity: which weights are not zero, by parameter (.safetensors or .npz), or"
        " 'weights' for the model's own",
    )
    add("--granules", metavar="KIND=N,...", help="neurons of a kind that stay together")
    parser.add_argument(
        "--list-strategies", action=ListStrategies, help="say what each strategy does, and exit"
    )


class ListStrategies(argparse.Action):
    """Prints the strategies instead of running the command."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print a line for each and exit."""
        from partwise.cli.format import format_table
        from partwise.distributor.strategies import STRATEGIES

        rows = [(name, strategy.HELP) for name, strategy in STRATEGIES.items()]
        print(format_table(("strategy", "what it does"), rows))
        parser.exit()


def choose_strategy(args: argparse.Namespace) -> str:
    """The strategy asked for, or the default one.

    Raises:
        UsageError: there is none of that name, an option that it does not have is given, or one
            that it needs is not.
    """
    from partwise.distributor.strategies import STRATEGIES

    name: str = DEFAULT_STRATEGY if args.strategy is None else args.strategy
    if name not in STRATEGIES:
        raise UsageError(f"--strategy is {name!r}: give one of {', '.join(STRATEGIES)}")
    for option in STRATEGY_OPTIONS:
        if option.needed and not option.is_given(args) and name in option.strategies:
            raise UsageError(f"--strategy {name} needs --{option.name} {option.needed}")
        if option.is_given(args) and name not in option.strategies:
            raise UsageError(
                f"--{option.name} is for the strategy {' or '.join(option.strategies)}, not for"
                f" {name!r}: give --strategy {option.strategies[0]}, or leave it out"
            )
    return name


def split_strategies(args: argparse.Namespace) -> tuple[list[str], list[StrategyOption]]:
    """The strategies that have what they need, and the options that others would need."""
    from partwise.distributor.strategies import STRATEGIES

    missing = [o for o in STRATEGY_OPTIONS if o.needed and not o.is_given(args)]
    idle = {name for option in missing for name in option.strategies}
    return [name for name in STRATEGIES if name not in idle], missing


def read_strategy_options(args: argparse.Namespace) -> dict[str, Any]:
    """The strategies' own options, under the names that they have there.

    Raises:
        UsageError: one is of another form than its help says.
    """
    given = [o for o in STRATEGY_OPTIONS if o.key and o.is_given(args)]
    options = {o.key: o.read(o.get(args)) for o in given}
    if args.masks:
        options["masks"] = read_masks(args.masks, args.model)
    return options


def _same(value: Any) -> Any:
    return value


def _read_layers(text: str) -> dict[str, str]:
    return read_pairs("layers", text)


STRATEGY_OPTIONS = (
    StrategyOption("allow", "", FITTING, _same),
    StrategyOption("cache-fit", "cache_fit", FITTING, _same),
    StrategyOption("keep-order", "keep_order", ("balanced",), _same),
    StrategyOption("percent", "percentages", ("percentage",), read_percentages, "70,30"),
    StrategyOption("layers", "layers", ("layers",), _read_layers, "NAME=0:10,..."),
    StrategyOption("types", "types", ("type",), read_types, "KIND=NAME,..."),
    StrategyOption("ids", "ids", ("ids",), read_ids, "LAYERS/KIND/NAME=0:3,7"),
    StrategyOption("granules", "granules", (*SHARING, *BY_TIME), read_granules),
    # What they mean depends on the model: see `read_strategy_options`.
    StrategyOption("masks", "", ("connectivity",), _same),
)
