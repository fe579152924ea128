"""`partwise locate`: where a neuron is, by a plan and its model's file headers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.distributor.plan import Plan
    from partwise.model.description import Model
    from partwise.registry.directory import Holder, Located

NAME = "locate"
HELP = "say which server owns a neuron under a plan; reads no weights"
EXAMPLES = (
    "partwise locate plan.json 5 700 --kind mlp_unit",
    "partwise locate plan.json lm_head 42 --model models/SmolLM2-135M-Instruct --json",
)
HEADERS = ("server", "part", "precision", "neurons", "of them")

MODELS = Path("models")
"""Where a plan's model is looked for by its name, as `partwise import` is told to put it there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise locate``."""
    add = parser.add_argument
    add("plan", metavar="PLAN", type=Path, help="a file that `partwise plan --out` wrote")
    add("layer", metavar="LAYER", help="its number from 0 (the embedding is a layer), or its name")
    add("neuron", metavar="NEURON", type=int, help="its number from 0")
    add("--kind", metavar="KIND", help="of the neuron, where the layer has several kinds")
    add(
        "--model",
        metavar="MODEL",
        type=Path,
        help=f"the plan's model directory (default: its name in {MODELS}/)",
    )
    add("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print where a neuron is."""
    from partwise.cli.format import format_json
    from partwise.distributor import read_plan, verify_plan
    from partwise.registry.directory import Directory

    plan = read_plan(args.plan)
    model = open_planned(args.model, plan)
    verify_plan(plan, model)
    directory = Directory(plan=plan, model=model)
    located = directory.locate(read_layer(args.layer), args.neuron, args.kind)
    print(format_json(describe(located)) if args.json else render(located))
    return 0


def read_layer(text: str) -> int | str:
    """The number of a layer, or its name."""
    try:
        return int(text)
    except ValueError:
        return text


def open_planned(path: Path | None, plan: Plan) -> Model:
    """The model that a plan is for, in the version that it is for.

    Raises:
        UsageError: none was given, and none of its name is there.
        ModelError, StoreError: as `open_version`.
    """
    from partwise.model import open_model

    if path is None:
        path = MODELS / plan.model.name
        if not path.is_dir():
            raise UsageError(
                f"the plan is for {plan.model.name}, and {path} is no directory: say where the"
                " model is with --model"
            )
    if not plan.model.version:  # spares importing numpy
        return open_model(path)
    from partwise.store import open_version

    return open_version(path, plan.model.version)


def describe(located: Located) -> dict[str, Any]:
    """Where it is, as a JSON document."""
    return {
        "plan_version": located.plan_version,
        "layer": located.layer,
        "layer_name": located.layer_name,
        "kind": located.kind,
        "neuron": located.neuron,
        "num_neurons": located.num_neurons,
        "is_split": located.is_split,
        "holders": [describe_holder(holder) for holder in located.holders],
    }


def describe_holder(holder: Holder) -> dict[str, Any]:
    """One part that has the neuron."""
    return {
        "part": holder.part,
        "server": holder.server,
        "precision": holder.precision,
        "ranges": [list(bounds) for bounds in holder.ranges],
        "num_owned": holder.num_neurons,
    }


def render(located: Located) -> str:
    """Where it is, for people."""
    from partwise.cli.format import format_table

    rows = [
        (
            holder.server,
            holder.part,
            holder.precision,
            ", ".join(f"{start}:{stop}" for start, stop in holder.ranges),
            holder.num_neurons,
        )
        for holder in located.holders
    ]
    return f"{head(located)}\n\n{format_table(HEADERS, rows)}"


def head(located: Located) -> str:
    """What was asked, and whether one part or several have it."""
    who = "owned by one part"
    if not located.is_split:
        count = len(located.holders)
        who = f"not split, all {count} members hold it" if count > 1 else "not split, held whole"
    return (
        f"{located.kind} {located.neuron:,} of {located.num_neurons:,} in layer {located.layer}"
        f" ({located.layer_name}), plan_version {located.plan_version}: {who}"
    )
